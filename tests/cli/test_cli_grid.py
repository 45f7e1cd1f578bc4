"""What the flags of a grid make of a sweep."""

from __future__ import annotations

from isoscale.cli.grid import Grid


def test_a_residual_mlp_states_its_defaults_so_that_stored_trials_are_found() -> None:
    assert Grid().spec().model_args == {"block_depth": 2, "phi": "relu", "norm": "layer"}
    assert Grid(norm="none").spec().model_args == {"block_depth": 2, "phi": "relu"}
    assert Grid(block_depth=1, norm="rms").spec().model_args == {"block_depth": 1, "phi": "relu", "norm": "rms"}


def test_other_models_keep_their_own_defaults() -> None:
    assert Grid(model="conv-net").spec().model_args == {}
    assert Grid(model="conv-net", norm="none").spec().model_args == {}
    spec = Grid(model="conv-net", phi="gelu", model_args={"kernel": 5, "padding": "zero"}).spec()
    assert spec.model_args == {"phi": "gelu", "kernel": 5, "padding": "zero"}


def test_options_of_the_data_set() -> None:
    assert Grid().spec().dataset_args == {"accuracy": 0.7, "train": 6400}
    assert Grid(dataset_args={"train": 640}).spec().dataset_args == {"accuracy": 0.7, "train": 640}
    assert Grid(dataset="digits").spec().dataset_args == {}
    assert Grid(dataset="cifar10", batches=(1, 2)).spec().dataset_args == {"batches": (1, 2)}
    assert Grid(dataset="text", dataset_args={"context": 8}).spec().dataset_args == {"context": 8}
