"""What is said of a folder before anything is trained on it."""

from pathlib import Path

from PIL import Image

from stochcon.config import Data
from stochcon.data.survey import survey
from stochcon.pretrain_verb import starting_point
from stochcon.recipebook import recipe, suited
from tests.data.files import picture


def test_everything_in_a_folder_is_counted(tmp_path: Path) -> None:
    for i in range(40):
        picture(tmp_path / ("cat" if i % 2 else "dog") / f"{i}.png", f"rgb({i}, {2 * i}, 90)")
    (tmp_path / "cat" / "same.png").write_bytes((tmp_path / "cat" / "1.png").read_bytes())
    Image.new("RGB", (300, 100), "red").save(tmp_path / "dog" / "wide.jpg")
    (tmp_path / "cat" / "damaged.png").write_bytes(b"nothing")
    for name in ("a.svg", "b.svg", "notes"):
        (tmp_path / name).write_text("no image")
    found = survey(Data(name="folder", root=tmp_path))
    assert sum(found.splits.values()) == 43 and found.classes == 2
    assert found.ignored == {".svg": 2, "": 1} and found.twins == 1
    assert found.sides[2] == 100 and 0.29 < found.cut < 0.34 and not found.grey
    said = " ".join(found.lines())
    assert "43 images" in said and "2 .svg, 1 without an ending" in said and "same bytes as another: 1" in said


def test_the_recipe_fits_few_and_grey_images(tmp_path: Path) -> None:
    for i in range(60):
        Image.new("L", (20, 20), i).convert("RGB").save(tmp_path / f"{i}.png")
    config, said = starting_point([str(tmp_path)], asks=False)
    assert (config.recipe, config.data.root, config.data.channels) == ("folder", tmp_path, 1)
    assert config.batch_size == survey(config.data).splits["train"] < 60
    assert "--data.channels 1" in " ".join(said)
    same, _ = starting_point(["folder", f"--data.root={tmp_path}"], asks=False)
    assert same == config


def test_many_and_coloured_images_have_the_recipe_as_it_is(tmp_path: Path) -> None:
    for i in range(20):
        picture(tmp_path / f"{i}.png", f"rgb(200, {i}, 10)")
    small = recipe("folder", batch_size=4)
    found = survey(Data(name="folder", root=tmp_path))
    assert suited(small, found.splits["train"], found.grey) == (small, [])


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    for i in range(30):
        picture(tmp_path / "elsewhere" / f"{i}.png", f"rgb({i}, 9, 10)")
    images = tmp_path / "images"
    picture(images / "here" / "0.png", "red")
    (images / "there").symlink_to(tmp_path / "elsewhere")
    (images / "here" / "again").symlink_to(images)
    found = survey(Data(name="folder", root=images))
    assert found.classes == 2 and sum(found.splits.values()) == 31
    (images / "here" / "1.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    assert "links to files, which are followed: 1" in " ".join(survey(Data(name="folder", root=images)).lines())
