"""`crossfront compress` on a tiny network and a few of the embedded images."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hwmodel.mapping import to_segments
from search.cli import main
from trainers.checkpoint import WEIGHTS, load_checkpoint, read_manifest
from trainers.integer import integer_layers
from trainers.verify import verify_folder

TINY = """
[network]
name = "mlp"
arguments = { hidden = 24 }
[data]
test_count = 100
[train]
dense_epochs = 1
epochs = 1
train_count = 640
calibration_count = 128
"""
Compress = Callable[..., tuple[int, str, str]]


@pytest.fixture
def compress(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Compress:
    """Compresses the tiny network to `out`: exit code, standard output, standard error."""
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)

    def run(text: str, *options: object) -> tuple[int, str, str]:
        Path("tiny.toml").write_text(TINY + text)
        arguments = ["crossfront", "compress", "tiny.toml", "--to", "out", *map(str, options)]
        monkeypatch.setattr("sys.argv", arguments)
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def compressed(compress: Compress, text: str, *options: object) -> dict[str, Any]:
    """What `--json` says of a compression that went well, whose export proves itself."""
    code, out, err = compress(text, *options, "--json")
    assert (code, "the dense baseline, kept in" in err) == (0, True)
    found: dict[str, Any] = json.loads(out)
    assert verify_folder(Path("out"), images=8).failures == ()
    return found


def stored() -> dict[str, torch.Tensor]:
    """The integers of the export."""
    return {
        name: layer.weight_q
        for name, layer in integer_layers(load_checkpoint(Path("out")).network).items()
    }


def epochs() -> tuple[int, int]:
    """Of the dense baseline and of the candidate."""
    train = read_manifest(Path("out"))["config"]["train"]
    return train["dense_epochs"], train["epochs"]


LEVEL_SUM = '[method]\nname = "level-sum"\n[candidate]\nadc_bits = 6\n'


def test_adc_bits_replace_those_of_the_file_in_every_layer(compress: Compress) -> None:
    found = compressed(compress, LEVEL_SUM, "--adc-bits", 3)
    assert set(found["adc_bits"]) == {"fc1", "fc2"}
    assert max(found["adc_bits"].values()) == 3
    manifest = read_manifest(Path("out"))
    assert [s["adc_bits"] for s in manifest["candidate"]["layers"].values()] == [3, 3]
    assert manifest["ratio"] == found["ratio"]
    assert manifest["dense"] == found["dense"]


def test_adc_bits_leave_layers_alone_that_the_file_names(compress: Compress) -> None:
    text = LEVEL_SUM + "[candidate.layers.fc2]\nadc_bits = 5\n"
    assert compressed(compress, text, "--adc-bits", 3)["adc_bits"] == {"fc1": 3, "fc2": 5}


def test_without_training_the_dense_weights_are_projected(compress: Compress) -> None:
    magnitude = '[method]\nname = "magnitude"\n[candidate]\nkept_weights = 0.1\n'
    trained = compressed(compress, magnitude, "--train")
    kept = stored()
    assert epochs() == (1, 1)
    untrained = compressed(compress, magnitude, "--no-train", "--force")
    assert epochs() == (1, 0)
    assert untrained["dense"] == trained["dense"]
    assert any(not torch.equal(kept[name], q) for name, q in stored().items())
    for weight_q in stored().values():
        assert torch.count_nonzero(weight_q) <= round(0.1 * weight_q.numel())


def test_rungs_of_a_search_do_not_forbid_to_leave_out_the_training(compress: Compress) -> None:
    text = "[fidelity]\nrungs = [1]\n[candidate]\nnonzeros = 5\n"
    compressed(compress, text, "--no-train")
    assert epochs() == (1, 0)


def test_reconstruction_recovers_accuracy_within_the_bound(compress: Compress) -> None:
    bound = "[candidate]\nnonzeros = 2\n"
    plain = compressed(compress, bound, "--no-train")
    assert read_manifest(Path("out"))["config"]["train"]["reconstruct"] is False
    fitted = compressed(compress, bound, "--no-train", "--reconstruct", "--force")
    assert read_manifest(Path("out"))["config"]["train"]["reconstruct"] is True
    assert fitted["values"]["accuracy"] > plain["values"]["accuracy"]
    assert fitted["adc_bits"] == plain["adc_bits"]
    for layer in integer_layers(load_checkpoint(Path("out")).network).values():
        segments = to_segments(layer.layout.pack(layer.weight_q), layer.spec.wordlines)
        assert max(int((segments * sign > 0).sum(-1).max()) for sign in (1, -1)) == 2


def test_reconstruction_of_the_file_can_be_refused(compress: Compress) -> None:
    text = "reconstruct = true\n[candidate]\nnonzeros = 2\n"  # the file ends in [train]
    compressed(compress, text, "--no-train", "--no-reconstruct")
    assert read_manifest(Path("out"))["config"]["train"]["reconstruct"] is False


def test_crossbars_are_as_the_options_say(compress: Compress) -> None:
    compressed(compress, "", "--nonzeros", 2, "--wordlines", 32, "--bitlines", 64, "--no-train")
    for layer in integer_layers(load_checkpoint(Path("out")).network).values():
        assert (layer.spec.wordlines, layer.spec.bitlines) == (32, 64)


def test_answer_for_people_says_what_the_json_does(compress: Compress) -> None:
    found = compressed(compress, "", "--nonzeros", 5, "--no-train")
    before = load_file(Path("out") / WEIGHTS)
    code, out, _ = compress("", "--nonzeros", 5, "--no-train")
    assert code == 0
    assert f"{found['values']['accuracy']:.4f}" in out
    assert f"({found['ratio']['area']:.2f} times less than dense)" in out
    assert found["adc_bits"] == {"fc1": 4, "fc2": 4}
    assert "ADC bits   4 in layers fc1, fc2\n" in out
    assert found["ratio_to"] in out
    assert "crossfront verify out" in out
    assert "dead paths" not in out
    assert "dead_paths" not in found
    after = load_file(Path("out") / WEIGHTS)
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_dead_paths_are_told(compress: Compress) -> None:
    memristor = """
[method]
name = "memristor"
[candidate]
weight_levels = 31
kept_filters = 0.5
whole_crossbars = false
"""
    found = compressed(compress, memristor, "--no-train")
    removed = {"fc2": {"rows": 12, "outputs": 0}}
    assert found["dead_paths"] == {"removed": removed, "kept": {}}
    assert read_manifest(Path("out"))["dead_paths"] == found["dead_paths"]
    assert integer_layers(load_checkpoint(Path("out")).network)["fc2"].layout.packed_rows == 12
    _, out, _ = compress(memristor, "--no-train")
    assert "dead paths removed: fc2 12 rows\n" in out


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (LEVEL_SUM, ["--nonzeros", 5], "fc1: nonzeros is set, which method 'level-sum' does not"),
        ("", ["--adc-bits", 4], "fc1: adc_bits is set, which method 'tinyadc' does not read"),
        (LEVEL_SUM, ["--adc-bits", 0], "adc_bits is 0; allowed: 1 or more"),
        (LEVEL_SUM, ["--adc-bits", 33], "adc_bits is 33; allowed: 1 to 32"),
        (LEVEL_SUM + '[hardware]\npreset = "isaac"\n', [], "fc1: level sums with flipped encoding"),
        ("", ["--wordlines", 0], "wordlines is 0"),
        ("", ["--nonzeros", 200], "nonzeros is 200; allowed: 1 to 128"),
        ("[candidate.layers.fc9]\n", [], "a setting for layer 'fc9'; layers: fc1, fc2"),
    ],
)
def test_mistake_is_one_line_before_anything_is_trained(
    compress: Compress, text: str, options: list[object], message: str
) -> None:
    code, out, err = compress(text, *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not Path("out").exists()


def test_folder_that_holds_something_else_is_left_alone(compress: Compress) -> None:
    Path("out").mkdir()
    Path("out/thesis.tex").touch()
    code, out, err = compress("")
    assert (code, out) == (2, "")
    assert "out: holds something else" in err
    assert [path.name for path in Path("out").iterdir()] == ["thesis.tex"]


def test_export_of_another_candidate_is_replaced_by_force_alone(compress: Compress) -> None:
    compressed(compress, "", "--nonzeros", 5, "--no-train")
    before = stored()
    code, out, err = compress("", "--nonzeros", 3, "--no-train")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "out: holds another export (mlp, method tinyadc, accuracy 0." in err
    assert all(torch.equal(tensor, before[name]) for name, tensor in stored().items())
    compressed(compress, "", "--nonzeros", 5, "--no-train")  # the same one again
    compressed(compress, "", "--nonzeros", 3, "--no-train", "--force")
    assert not all(torch.equal(tensor, before[name]) for name, tensor in stored().items())
