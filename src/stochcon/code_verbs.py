"""The verbs that take a finished run into use. No logic: options in, one call, one line out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from stochcon.options import parse


def encode(arguments: list[str]) -> None:
    def options(
        directory: tyro.conf.Positional[Path],
        images: tyro.conf.Positional[str],
        out: Path = Path("codes.parquet"),
        split: Literal["train", "validation", "test"] | None = None,
        batch_size: int = 512,
        quiet: bool = False,
    ) -> tuple[Path, str, Path, Literal["train", "validation", "test"] | None, int, bool]:
        """Write the codes of images, packed bits and an uncertainty for each, to a Parquet file.

        When interrupted, the same command goes on. Under torchrun each process writes a shard.

        Args:
            directory: A finished run with a Bernoulli or Gaussian latent.
            images: A folder of images or of shards, a .tar or .zip archive, or the name of a data set.
            out: The file of codes.
            split: Only the images of this split; by default all.
            batch_size: Images at once; an interruption loses at most so many.
            quiet: Show no progress bar.
        """
        return directory, images, out, split, batch_size, quiet

    directory, images, out, split, batch_size, quiet = parse(options, arguments, "stochcon encode")
    from stochcon.codes.encode import encode
    from stochcon.program import resumable

    with resumable("the same command again goes on"):
        file, count, skipped = encode(directory, images, out, split, batch_size, progress=not quiet)
    if skipped:
        print(f"Some images cannot be read: {skipped} lists them")
    print(f"{count} codes are in {file}. Next: stochcon search {out} ID")


def search(arguments: list[str]) -> None:
    def options(
        codes: tyro.conf.Positional[Path],
        queries: tyro.conf.Positional[tuple[str, ...]],
        k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 10,
        run: Path | None = None,
        weighted: bool = False,
        approximate: bool = False,
        images: str | None = None,
        picture: Path | None = None,
    ) -> tuple[Path, tuple[str, ...], dict[str, Any], str | None, Path | None]:
        """List, and draw, the images whose codes differ from that of each query in the fewest bits.

        Args:
            codes: A file that stochcon encode wrote.
            queries: Ids in that file, or image files.
            k: How many to list for each.
            run: The run that made the codes; needed to encode an image file.
            weighted: Count each bit by how informative and how certain it is.
            approximate: Look only where near codes are likely; an index is built once, in CODES.index.
            images: What was encoded, a folder, an archive or a data set; the results are drawn from it.
            picture: Where they are drawn; by default CODES.search.png.
        """
        how = {"k": k, "run": run, "weighted": weighted, "approximate": approximate}
        return codes, queries, how, images, picture

    codes, queries, how, images, picture = parse(options, arguments, "stochcon search")
    if picture and images is None:
        raise ValueError(f"--picture {picture} needs --images, what was encoded")
    from stochcon.codes.search import search, show

    results = search(codes, queries, **how, say=print)
    show(results)
    if images is not None:
        from stochcon.codes.gallery import save

        print(f"The picture is {save(results, images, picture or codes.with_suffix('.search.png'))}")


def export(arguments: list[str]) -> None:
    def options(
        directory: tyro.conf.Positional[Path],
        to: Literal["onnx", "hub"],
        out: Path | None = None,
        check: int | None = None,
    ) -> tuple[Path, Literal["onnx", "hub"], Path | None, int | None]:
        """Write a run's network for use elsewhere: from uint8 images to packed bits, or with a model card.

        Args:
            directory: A finished run.
            to: An ONNX file, for onnxruntime without stochcon; or a Hugging Face Hub folder.
            out: By default DIR/model.onnx, or hub/ and the run's name.
            check: ONNX: validation images to compare its bits with PyTorch's on; by default 1000, 0 for none.
        """
        return directory, to, out, check

    directory, to, out, check = parse(options, arguments, "stochcon export")
    from stochcon.exporters.export import export

    path, agreement = export(directory, to, out, check)
    if to == "onnx":
        print(f"{path}: {agreement or 'not compared with PyTorch'}")
    else:
        print(f"{path} is ready. Before you publish it, complete its README.md: data, limits, licence")
