"""Table 4 from a generated Something-Something-v2 tree, through the real reader and VideoMAE."""

from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.data.ssv2_tree import CONFIG, write_checkpoint, write_tree
from tests.workflow.project import call

FILES = ("demo.yaml", "tests/smoke.yaml", "mine.yaml")
RESULTS = Path("results") / "smoke"
OVERLAY = {
    "data": {
        "ssv2": CONFIG["data"]["ssv2"]
        | {
            "folder": "data/ssv2",
            "full": False,
            "image_size": 28,
            "sizes": {"undecodable": 1},
            "visions": {
                "vit-s": {
                    "family": "videomae",
                    "start": "checkpoints/start.pth",
                    "training": {"batch_size": 4},
                }
            },
        }
    },
    # the demo's heads start at 0, and so would the first measured gradients, at rate 0
    "visions": {"vit-s": {"overrides": {"weight_init": ""}}},
    "tables": {"table4": {"video": "ssv2", "visions": ["vit-s"]}},
}


@pytest.fixture
def filled(project: Path) -> Path:
    """Return a copy of the project with clips, one of them damaged, and a start checkpoint."""
    write_tree(project / "data" / "ssv2")
    (project / "data" / "ssv2" / "videos" / "105.webm").write_bytes(b"")
    (project / "checkpoints").mkdir()
    demo = yaml.safe_load((project / "demo.yaml").read_text())
    sizes = demo["visions"]["vit-s"]["overrides"]
    write_checkpoint(project / "checkpoints" / "start.pth", 28, sizes)
    (project / "mine.yaml").write_text(yaml.safe_dump(OVERLAY))
    return project


def snakemake(project: Path, *arguments: str):
    """Run snakemake in a warm process, with the overlay last."""
    warm = ("python", "-m", "rectify", "warm", "snakemake", "--cores", "2")
    return call(project, *warm, "--configfile", *FILES, "--", *arguments)


def test_the_video_columns_of_table_4_come_from_clips_in_files(filled: Path) -> None:
    runs = ("vanilla", "auxiliary_llama-m_layer-2_end_lambda-0.35")
    places = [filled / RESULTS / "runs" / f"ssv2_vit-s_{run}" / "seed-0" for run in runs]
    said = snakemake(filled, "table4")
    assert said.returncode == 0, said.stdout[-4000:]
    cells = pd.read_csv(filled / RESULTS / "tables" / "table4.csv")
    video = cells[cells["column"].str.startswith("Something-Something-v2: ")]
    columns = [f"Something-Something-v2: {name}" for name in ("acc@1", "acc@2", "GSNR")]
    assert set(video["column"]) == set(columns)
    assert len(video) == 6
    assert video["mean"].notna().all()
    for place, row in zip(places, ("ViT-64", "ViT-64 +AUX"), strict=True):
        scores = pd.read_csv(place / "evaluation.csv")
        assert scores["items"].tolist() == [6]
        shown = video[(video["row"] == row) & (video["column"] == columns[0])]["mean"]
        assert shown.item() == pytest.approx(100 * scores["accuracy_top1"].item())
    log = (filled / RESULTS / "logs" / "prepare_data" / "ssv2.log").read_text()
    assert "ssv2: cannot be decoded: videos/105.webm" in log
    assert "ssv2: train: 11 items" in log
