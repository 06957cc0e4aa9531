import pytest
import torch
from transformers import AutoConfig, LlamaConfig

from rectify.controls import VARIANTS
from rectify.cost import (
    Counts,
    Design,
    build,
    counts,
    design_from,
    flops,
    known_languages,
    language_config,
    of_images,
    parameters,
    training_pass,
)
from rectify.language.block import empty_block
from rectify.results.declared import COST
from rectify.speed import Speed
from rectify.tasks.motion_forecasting.example import AGENTS, LANES
from rectify.trunks.vit import create_vit
from tests.helpers.designs import clips, clouds, scenes

PAPER = {"vision": "vit_small_patch16_224", "language": "llama-7b"}
SMALL = {"vision": "vit_tiny_patch16_224", "image_size": 32, "classes": 10}
TOY = {"embed_dim": 16, "num_heads": 2, "depth": 2, "patch_size": 14}


def counted(design: Design, variants=("vanilla", "insert")) -> dict[str, Counts]:
    return {variant: counts(design, variant) for variant in variants}


@pytest.fixture(scope="module")
def papers():
    return counted(of_images(**PAPER), VARIANTS)


@pytest.fixture
def folder(tmp_path):
    """A tiny LLaMA's settings."""
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 2}
    LlamaConfig(**sizes).save_pretrained(tmp_path)
    return f"{tmp_path}"


def test_the_columns_of_the_table_are_counted_or_measured():
    assert ["variant", *Counts._fields, *Speed._fields] == COST.names


@pytest.mark.slow
def test_the_papers_parameters_are_counted_exactly(papers):
    vanilla, inserted, _, auxiliary = papers.values()
    assert vanilla.parameters == vanilla.trained_parameters == auxiliary.test_parameters
    assert (vanilla.parameters, vanilla.test_parameters) == (22_050_664, 22_050_664)
    assert inserted.parameters == inserted.test_parameters == auxiliary.parameters == 227_579_752
    assert inserted.trained_parameters == auxiliary.trained_parameters == 25_196_392


@pytest.mark.parametrize(("size", "count"), [("tiny", 5_717_416), ("base", 86_567_656)])
def test_other_vits_are_counted_exactly(size, count):
    with torch.device("meta"):
        vit = create_vit(f"vit_{size}_patch16_224", num_classes=1000, image_size=224)
    assert parameters(vit) == count


def test_the_papers_flops_come_out_to_the_digit(papers):
    shown = {variant: f"{numbers.flops / 1e9:.4f}" for variant, numbers in papers.items()}
    inserted = {"insert": "90.1124", "residual": "90.1124"}
    assert shown == {"vanilla": "8.5013", **inserted, "auxiliary": "8.5013"}


def test_flops_equal_the_sum_that_is_written_out_by_hand(papers):
    tokens, dim, depth, width, mlp = 197, 384, 12, 4096, 11008
    block = tokens * (3 * dim * dim + dim * dim + 2 * dim * 4 * dim)
    vision = 196 * dim * 3 * 16**2 + depth * block + dim * 1000
    bridge = tokens * (2 * dim * width + 4 * width * width + 3 * width * mlp)
    norms, products = 5 * 25 * tokens * dim, 2 * tokens**2
    expected = {
        "vanilla": (vision + norms, vision, vision + depth * products * dim),
        "insert": (
            vision + norms + bridge + products * width,
            vision + bridge,
            vision + depth * products * dim + bridge + products * width,
        ),
    }
    for variant, multiply_adds in expected.items():
        assert papers[variant][3:6] == tuple(2 * count for count in multiply_adds)
    assert papers["auxiliary"][3:6] == papers["vanilla"][3:6]
    assert papers["residual"] == papers["insert"]  # a sum has no weights and no products


def test_a_training_step_of_the_papers_models_costs_seven_times_the_plain_one(papers):
    steps = [numbers.training_flops for numbers in papers.values()]
    assert [round(step / 1e9, 1) for step in steps] == [27.5, 192.6, 192.6, 192.6]
    head = 2 * 3 * 384 * 1000  # the auxiliary path runs head and its backward pass once more
    assert steps[3] - steps[1] == head


def test_training_flops_are_written_out_by_hand(folder):
    """Each matrix once forward, once for its input and once for itself; a frozen one not."""
    tokens, dim, width, depth, classes = 5, 16, 24, 2, 10
    trained = 4 * 14 * 14 * dim + depth * tokens * 12 * dim**2 + dim * classes
    bridge = tokens * 2 * dim * width
    frozen = tokens * (4 * width**2 + 3 * width * 40)
    sizes = {"image_size": 28, "channels": 1, "classes": classes, "overrides": TOY}
    design = of_images("vit_tiny_patch16_224", folder, **sizes)
    attention = 2 * tokens**2 * (depth * dim + width)  # multiply-adds, forward
    first = 4 * 14 * 14 * dim  # images need no gradient
    forward = 2 * (trained + bridge + frozen + attention)
    backward = 2 * (2 * (trained + bridge) - first + frozen + 2 * attention)
    model = build(design, "insert").trained
    assert training_pass(model, design.batch(1, "meta"), design.losses).flops == forward + backward
    assert counts(design, "insert").training_flops == forward + backward


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "dim", "count"), [("small", 384, 21_946_926), ("base", 768, 86_361_006)]
)
def test_videomae_at_16_frames_is_counted_exactly_and_by_hand(size, dim, count):
    design = clips(f"vit_{size}_patch16_224", "llama-7b", 16, classes=174)
    vanilla, inserted = counted(design).values()
    tokens, depth, width, mlp = 8 * 14 * 14, 12, 4096, 11008
    adapters = 2 * dim * width
    assert vanilla.parameters == count
    assert inserted.parameters == count + adapters + 202_383_360
    embedding = tokens * dim * 2 * 3 * 16**2
    vision = embedding + depth * tokens * 12 * dim * dim + dim * 174
    attention = 2 * tokens**2
    block = tokens * (adapters + 4 * width * width + 3 * width * mlp)
    assert vanilla.flops_matmuls_without_attention == 2 * vision
    assert inserted.flops_matmuls_without_attention == 2 * (vision + block)
    products = vision + depth * attention * dim
    assert vanilla.flops_matmuls_with_attention == 2 * products
    assert inserted.flops_matmuls_with_attention == 2 * (products + block + attention * width)
    norms = 5 * (2 * depth * tokens + 1) * dim  # the last one is of the mean alone
    assert vanilla.flops == 2 * (vision + norms)


@pytest.mark.parametrize("points", [1024, 4096])
@pytest.mark.slow
def test_point_bert_is_counted_exactly_and_by_hand(points):
    variants = ("vanilla", "insert", "auxiliary")
    vanilla, inserted, second = counted(clouds(points, "llama-7b"), variants).values()
    assert vanilla.parameters == 22_065_960
    adapters, width, mlp = 2 * 384 * 4096, 4096, 11008
    assert inserted.parameters == 22_065_960 + adapters + 202_383_360
    assert second.test_parameters == vanilla.parameters
    groups, dim, depth = points // 16, 384, 12
    tokens = groups + 1
    pointnet = 32 * groups * (3 * 128 + 128 * 256 + 256 * 512 + 512 * 256)
    pointnet += groups * 256 * 512  # what is common to a group's points
    stem = pointnet + groups * (256 * dim + 3 * 128 + 128 * dim)
    linear = stem + depth * tokens * 12 * dim**2 + 2 * dim * 256 + 256 * 40
    norms = 5 * (2 * depth + 1) * tokens * dim + 2 * 32 * groups * (128 + 512)
    products = 2 * tokens**2
    bridge = tokens * (adapters + 4 * width**2 + 3 * width * mlp)
    attention = depth * products * dim
    assert vanilla[3:6] == (2 * (linear + norms), 2 * linear, 2 * (linear + attention))
    assert inserted[3:6] == (
        2 * (linear + norms + bridge + products * width),
        2 * (linear + bridge),
        2 * (linear + attention + bridge + products * width),
    )


MOVES, PIECES, MODES = 19, 9, 6
LAYER = 4 * 4096**2 + 3 * 4096 * 11008


def forecasters(family: str, **overrides: str) -> list[Counts]:
    variants = ("vanilla", "insert", "auxiliary")
    return list(counted(scenes(family, "llama-7b", **overrides), variants).values())


def test_vectornet_is_counted_exactly_and_by_hand():
    vanilla, inserted, second = forecasters("vectornet")
    dim, tokens, vectors = 256, AGENTS + LANES, MOVES * AGENTS + PIECES * LANES
    assert vanilla.parameters == second.test_parameters == 1_780_933
    assert inserted.parameters - vanilla.parameters == 2 * dim * 4096 + 202_383_360
    graphs = MOVES * AGENTS * 6 * 32 + PIECES * LANES * 7 * 32
    graphs += vectors * (32**2 + 2 * 64**2 + 2 * 128**2)
    ways = 7 * (2 * dim**2 + dim * 60)
    scores = MODES * (2 * dim + dim**2 + 2 * dim**2 + 2 * dim**2 + dim)
    linear = graphs + tokens * 5 * dim**2 + AGENTS * (ways + scores)
    norms = vectors * 2 * (32 + 64 + 128) + tokens * 3 * dim + AGENTS * dim * (7 * 2 + MODES * 4)
    products = 2 * tokens**2
    assert vanilla[3:6] == (2 * linear + 10 * norms, 2 * linear, 2 * (linear + products * dim))
    bridge = tokens * (2 * dim * 4096 + LAYER)
    assert inserted.flops - vanilla.flops == 2 * (bridge + products * 4096)
    decoder = 3 * 2 * AGENTS * (ways + scores)  # forward, and twice backward, but for what is first
    offsets = 2 * AGENTS * MODES * 2 * dim  # ends of trajectories pass no gradient on
    assert second.training_flops - inserted.training_flops == decoder - offsets


@pytest.mark.parametrize(("tokens", "wide"), [("agents+lanes", 128), ("proposals", 256)])
def test_mmtransformer_is_counted_exactly_and_by_hand(tokens, wide):
    vanilla, inserted, _ = forecasters("mmtransformer", tokens=tokens)
    dim, asked = 128, AGENTS * MODES
    linear = products = 0

    def layers(count: int, own: int, memory: int = 0, keys: int = 0) -> None:
        """Add two layers of so many sequences that attend to themselves, then to a memory."""
        nonlocal linear, products
        linear += 2 * count * 8 * own * dim**2
        products += 2 * count * 2 * own**2 * dim
        if memory:
            linear += 2 * (2 * count * own + 2 * keys) * dim**2
            products += 2 * 2 * count * own * memory * dim

    layers(AGENTS, MOVES)
    layers(AGENTS, MODES, MOVES, keys=AGENTS * MOVES)
    layers(1, LANES)
    layers(AGENTS, MODES, LANES, keys=LANES)  # keys of lanes are made once for all agents
    layers(1, AGENTS)
    joint = 192 * dim + dim**2
    linear += AGENTS * (MOVES * 4 * dim + 2 * 64 + 64**2 + 6 * dim * dim + dim**2 + joint)
    linear += asked * joint + LANES * (PIECES * (7 * 32 + 64 * 32) + 64 * dim)
    linear += asked * (256**2 + 256 * dim + dim * 60 + 2 * 256 * 512 + 256 * dim + dim)
    assert vanilla.parameters == 2_208_989
    assert vanilla[4:6] == (2 * linear, 2 * (linear + products))
    count = AGENTS + LANES if tokens == "agents+lanes" else asked
    bridge = count * (2 * wide * 4096 + LAYER)
    assert inserted.flops - vanilla.flops == 2 * (bridge + 2 * count**2 * 4096)
    assert inserted.parameters - vanilla.parameters == 2 * wide * 4096 + 202_383_360


@pytest.mark.slow
@pytest.mark.parametrize("language", ["llama3-8b", "opt-125m", "opt-350m", "bloomz-560m"])
def test_every_family_is_counted_layer_by_layer(language):
    """The oracle: outputs of each linear, and two products of all tokens per attention."""
    config = language_config(language)
    width, tokens, dim = config.hidden_size, 5, 192
    block = empty_block(config, language)
    matrices = sum(p.numel() for p in block.parameters() if p.ndim == 2)
    norms = sum(isinstance(part, torch.nn.LayerNorm) for part in block.modules())
    vanilla, inserted = counted(of_images(**SMALL, language=language, position="middle")).values()
    linear = 2 * tokens * (matrices + 2 * dim * width)
    attention, norm = 4 * tokens**2 * width, 10 * tokens * width * norms
    extra = [after - before for before, after in zip(vanilla[3:6], inserted[3:6], strict=True)]
    assert extra == [linear + attention + norm, linear, linear + attention]


@pytest.mark.slow
def test_the_position_changes_no_count():
    early = counts(of_images(**SMALL, language="opt-125m", position="early"), "insert")
    assert counts(of_images(**SMALL, language="opt-125m", position=12), "insert") == early


def test_every_known_language_model_has_a_block():
    sizes = {
        name: parameters(empty_block(language_config(name), name)) for name in known_languages()
    }
    assert sizes["llama-7b"] == sizes["llama2-7b"] == 202_383_360
    assert sizes["opt-6.7b"] == sizes["bloomz-7.1b"] == 12 * 4096**2 + 13 * 4096
    papers = {"llama-7b", "opt-350m", "opt-1.3b", "opt-2.7b", "opt-6.7b", "bloomz-560m"}
    assert papers | {"bloomz-1.1b", "bloomz-3b", "bloomz-7.1b"} <= sizes.keys()


def test_whole_models_have_the_size_in_their_names():
    """Blocks and embeddings; the published names are rounded."""
    for name, embedded in (("llama", 2 * 32_000), ("opt", 50_272 + 2_050), ("bloomz", 250_880)):
        for known in (known for known in known_languages() if known.startswith(f"{name}-")):
            config = language_config(known)
            blocks = config.num_hidden_layers * parameters(empty_block(config, known))
            total = blocks + embedded * config.hidden_size
            number, unit = float(known.rpartition("-")[2][:-1]), known[-1]
            assert total == pytest.approx(number * {"m": 1e6, "b": 1e9}[unit], rel=0.07), known


def test_each_known_setting_is_one_that_transformers_knows_and_of_its_type():
    for name, values in known_languages().items():
        default = AutoConfig.for_model(values["model_type"])
        config = language_config(name)
        for key, value in values.items():
            assert type(value) is type(getattr(default, key)) or key == "num_key_value_heads", name
            assert getattr(config, key) == value, name


@pytest.mark.slow
def test_a_checkpoints_folder_is_a_language_model_too(folder):
    vanilla, inserted = counted(of_images(**SMALL, language=folder)).values()
    extra = inserted.parameters - vanilla.parameters
    assert extra == 4 * 24**2 + 3 * 24 * 40 + 2 * 24 + 2 * 192 * 24


def test_options_name_what_a_design_has_and_more(folder, tmp_path):
    options = {"vision": "vit_tiny_patch16_224", "language": "llama-7b", "position": "6"}
    design = design_from({**options, "classes": 10, "image_size": None, "batch_size": 3})
    assert design == of_images("vit_tiny_patch16_224", "llama-7b", position=6, classes=10)
    assert design_from(options, tmp_path / "absent").language == "llama-7b"
    assert design_from(options, tmp_path).language == folder
    with pytest.raises(ValueError, match="cost: --language must be given, got none"):
        design_from({"vision": "vit_tiny_patch16_224", "language": None})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"vision": "vit_smal_patch16_224"}, "vit_small_patch16_224"),
        ({"language": "lama-7b"}, "got 'lama-7b'. Did you mean llama-7b?"),
        ({"language": "?"}, "Known: llama-7b, .*bloomz-7.1b"),
        ({"position": "ende"}, r"early, middle, end or 0\.\.12"),
        ({"position": 13}, r"early, middle, end or 0\.\.12"),
        ({"image_size": 225}, "multiple of patch_size"),
        ({"classes": 0}, r"data\.classes must .* greater than 0, got 0"),
        ({"final_norm": "units"}, "final_norm"),
    ],
)
def test_mistakes_are_one_line(changes, expected):
    with pytest.raises(ValueError, match=expected) as caught:
        counts(of_images(**PAPER | changes), "insert")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("design", "expected"),
    [
        (
            clips("vit_small_patch16_224", "llama-7b", 0),
            r"data\.frames must .* than or equal to 2, got 0",
        ),
        (clips("vit_small_patch16_224", "llama-7b", 3), "a multiple of 2, got 3"),
        (clouds(16, "llama-7b"), "must not exceed the 16 points of a cloud, got 1 and"),
        (scenes("vectornets", "llama-7b"), "Did you mean vectornet?"),
        (
            clouds(1024, "llama-7b").model_copy(
                update={"task": "tests.helpers.toy_task", "entry": {}}
            ),
            "cost: the task must have `example`",
        ),
    ],
)
def test_mistakes_of_other_tasks_are_one_line(design, expected):
    with pytest.raises(ValueError, match=expected) as caught:
        counts(design, "insert")
    assert "\n" not in str(caught.value)


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="cost: variant: must be a known variant, got 'inserted'"):
        build(of_images(**PAPER), "inserted")


def test_flops_of_a_plain_vit_leave_no_hooks_behind():
    with torch.device("meta"):
        vit = create_vit("vit_tiny_patch16_224", num_classes=10, image_size=32)
    item = {"inputs": torch.empty(1, 3, 32, 32, device="meta")}
    assert flops(vit, item) == flops(vit, item)
    assert not any(part._forward_hooks for part in vit.modules())
