"""Recipes: named, validated, changed by field."""

from __future__ import annotations

from typing import Any

import pytest

from stochcon.config import Config, Latent, changes
from stochcon.recipebook import RECIPES, changed, recipe, recipes


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_its_name_and_survives_json(name: str) -> None:
    config = recipe(name)
    assert config.recipe == name
    assert Config.model_validate_json(config.model_dump_json()) == config == changed(config, {})
    assert f"stochcon pretrain {name}" in recipes()[name]


@pytest.mark.parametrize(
    "fields",
    [
        {"epochs": 2, "latent": {"dim": 64, "hard": True}},
        {"epochs": 2, "latent.dim": 64, "latent.hard": True},
        {"epochs": 2, "latent": recipe("digits").latent.model_copy(update={"dim": 64, "hard": True})},
    ],
    ids=["nested", "dotted", "model"],
)
def test_only_the_fields_named_change(fields: dict[str, Any]) -> None:
    found = changes(recipe("digits"), recipe("digits", **fields))
    assert found == {"epochs": (60, 2), "latent.dim": (16, 64), "latent.hard": (False, True)}


def test_a_whole_group_replaces_the_recipe_s() -> None:
    assert recipe("digits", latent=Latent(dim=3)).latent == Latent(dim=3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epoch": 2}, "epoch: there is no such field"),
        ({"latent": {"dims": 2}}, "latent.dims: there is no such field"),
        ({"latent.dims": 2}, "latent.dims: there is no such field"),
        ({"latent.dim": 0}, "latent.dim: 0 is not right"),
        ({"latent.dim.x": 1}, "latent.dim: {'x': 1} is not right"),
        ({"latent": 5}, "latent: 5 is not right"),
    ],
)
def test_what_is_not_right_is_refused_in_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refused:
        recipe("digits", **fields)
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)
