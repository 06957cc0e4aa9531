"""What the benchmarks compare computes the same thing."""

import pytest
import torch

from benchmarks import models, similarity, startup, training
from benchmarks.paired import Options
from rectify.rectified import auxiliary
from rectify.similarity.scores import mutual_knn_matrix


def test_one_call_per_pair_gives_the_scores_of_all_pairs():
    lefts, rights = similarity.layers(200, 3, 40, seed=1), similarity.layers(200, 2, 24, seed=2)
    scores = mutual_knn_matrix(lefts, rights, similarity.K)
    assert scores.min() > similarity.K / 199  # above chance: the layers share a part
    for i, left in enumerate(lefts):
        for j, right in enumerate(rights):
            assert similarity.pair_score(left, right) == scores[i, j].item()
    assert similarity.plain_matrix(lefts, rights).tolist() == scores.tolist()


def test_one_forward_pass_gives_the_gradient_of_two(make_vit, block):
    model = auxiliary(make_vit(), block, generator=torch.Generator().manual_seed(0)).train()
    images, labels = torch.randn(4, 1, 16, 16), torch.tensor([0, 1, 2, 3])
    found = []
    for losses in (training.one_forward, training.two_forwards):
        model.zero_grad()
        losses(model, images, labels).backward()
        found.append([p.grad for p in model.parameters() if p.requires_grad])
    for one, two in zip(*found, strict=True):
        assert torch.allclose(one, two, rtol=1e-4, atol=1e-6)


def test_the_frozen_block_is_shaped_like_llama_and_frozen():
    block = models.frozen_block()
    assert block.hidden == 512
    assert type(block.decoder).__name__ == "LlamaDecoderLayer"
    assert not any(parameter.requires_grad for parameter in block.parameters())


def test_a_training_step_leaves_the_weights_as_they_were():
    linear = torch.nn.Linear(2, 2)
    before = linear.weight.clone()
    step = models.training_step(linear, lambda: linear(torch.ones(1, 2)).sum().backward())
    step()
    assert torch.equal(linear.weight, before)
    assert linear.weight.grad is None


@pytest.mark.slow
def test_a_table_of_finished_runs_is_timed():
    (table,) = startup.run(Options(rounds=1, threads=1, only=("table",)))
    ((command, first, later, *_),) = table.rows
    assert command == "`table`"
    assert all(float(said.split()[0]) > 0 for said in (first, later))
