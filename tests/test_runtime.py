import copy
import os
import random
import signal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rectify.runtime import autocast, generator, seed_for, seed_globals, start, stop_asked
from rectify.tasks.contract import Machine


@given(st.integers(0, 2**31), st.lists(st.integers(0, 9) | st.sampled_from("abc"), max_size=3))
def test_a_seed_fits_every_generator(seed, purpose):
    derived = seed_for(seed, *purpose)
    assert 0 <= derived < 2**63
    assert derived == seed_for(seed, *purpose)


def test_seeds_are_the_same_on_every_machine():
    assert seed_for(0, "order", 1) == 4489457307835839548


def test_purposes_do_not_share_a_stream():
    purposes = [(), ("order",), ("order", 0), ("order", 1), ("augment", 0), (0, "order")]
    seeds = {seed_for(seed, *purpose) for seed in range(3) for purpose in purposes}
    assert len(seeds) == 3 * len(purposes)


def test_a_generator_repeats_itself_and_leaves_the_global_one_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = torch.rand(4, generator=generator(1, "a")), generator(1, "a")
    assert torch.equal(torch.rand(4, generator=second), first)
    assert torch.equal(torch.rand(3), expected)


def test_seeding_the_globals_repeats_python_numpy_and_torch():
    def draws():
        return random.random(), np.random.rand(), torch.rand(2).tolist()

    seed_globals(0, "step", 2, 3)
    first = draws()
    seed_globals(0, "step", 2, 3)
    assert draws() == first
    seed_globals(0, "step", 2, 4)
    assert draws()[0] != first[0]


@pytest.mark.usefixtures("restored_runtime")
@pytest.mark.parametrize(("asked", "usable"), [(1, 0), (2, 1), (4, 3)])
def test_gpus_that_are_asked_for_must_be_usable(asked, usable, monkeypatch):
    monkeypatch.delenv("RECTIFY_CPU", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: usable > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: usable)
    with pytest.raises(ValueError, match=f"by device_gpus, {asked}, got {usable}.") as caught:
        start(1, asked)
    assert "\n" not in str(caught.value)
    start(1, usable)


@pytest.mark.usefixtures("restored_runtime")
def test_a_cpu_may_stand_for_gpus_where_a_cluster_is_tried(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("RECTIFY_CPU", "1")
    assert start(1, 2).type == "cpu"


@pytest.mark.usefixtures("restored_runtime")
def test_starting_fixes_threads_and_makes_torch_deterministic():
    device = start(1)
    assert device.type in ("cpu", "cuda")
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()


@pytest.mark.usefixtures("restored_runtime")
def test_new_tensors_are_not_filled_which_changes_no_bit_of_a_training():
    start(1)
    assert not torch.utils.deterministic.fill_uninitialized_memory
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
    model = torch.nn.Sequential(torch.nn.Conv1d(3, 8, 4, 4), torch.nn.BatchNorm1d(8), layer)
    sounds = torch.randn(4, 3, 32)
    weights = {}
    for fills in (False, True):
        torch.utils.deterministic.fill_uninitialized_memory = fills
        assert bool(torch.empty(1000, dtype=torch.double).isnan().all()) or not fills
        torch.manual_seed(0)
        trained = copy.deepcopy(model)
        optimizer = torch.optim.AdamW(trained.parameters(), lr=0.1)
        for _ in range(3):
            trained(sounds).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        weights[fills] = trained.state_dict()
    for name, before in model.state_dict().items():
        assert torch.equal(weights[False][name], weights[True][name])
        assert not torch.equal(weights[False][name], before)


def test_float32_changes_nothing_and_bfloat16_autocasts():
    inputs, device = torch.ones(2, 2), torch.device("cpu")
    with autocast(device, "float32"):
        assert (inputs @ inputs).dtype == torch.float32
    with autocast(device, "bfloat16"):
        assert (inputs @ inputs).dtype == torch.bfloat16


def test_another_precision_is_an_error():
    with pytest.raises(ValueError, match="must be one of float32, bfloat16, got 'float16'"):
        autocast(torch.device("cpu"), "float16")


def test_processes_of_one_machine_share_its_readers(monkeypatch):
    gpu = torch.device("cuda")
    assert (Machine.of(gpu, 8).workers, Machine.of(torch.device("cpu"), 8).workers) == (8, 0)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert (Machine.of(gpu, 8).workers, Machine.of(gpu, 2).workers) == (2, 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_is_heard_and_does_not_end_the_process(number):
    before = signal.getsignal(number)
    with stop_asked() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
    assert signal.getsignal(number) is before
