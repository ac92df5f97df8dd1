"""Summarization: what is trained and scored is the files' texts, and a model that can read learns to copy."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

import effbench
from effbench.common.spec import Cell, UsageError
from effbench.measured.data.rouge import rouge_scores
from effbench.measured.data.source_targets import BEGIN, END
from effbench.measured.models.batches import sorted_batches
from effbench.measured.models.training import Diverged
from effbench.measured.probes.correctness import Incorrect
from effbench.measured.probes.generation_laws import check_generation
from effbench.measured.tasks.generation import summed
from effbench.measured.tasks.summarization import Summarization
from effbench.measured.workload import maker
from effbench.sweep.inline import InlineExecutor
from effbench.sweep.sweep import Sweep

WORDS = ("cells", "mice", "blood", "genes", "heart", "lungs", "brain", "liver")
OPTIONS = {"dataset": "files", "vocabulary": 300, "max_length": 24, "epochs": 1, "validation": 0}


def write(folder, parts=(("train", 40), ("validation", 6), ("test", 8))):
    """Articles whose summary is their first sentence and a last word that tells the rows apart."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for part, count in parts:
        rows = []
        for i in range(count):
            first, second = rng.choice(WORDS, 2)
            article = f"The {first} met the {second}. Nothing followed in {part} {i}.\nThat was all."
            rows.append({"article": article, "abstract": f"The {first} met the {second} ."})
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def task(**options):
    return Summarization(**{**OPTIONS, **options})


def model_of(made, splits, name="linear", seq_len=64):
    torch.manual_seed(0)
    cell = Cell(mechanism=name, options={}, probe="accuracy", task="summarization", seq_len=seq_len,
                d_model=8, heads=2)  # fmt: skip
    return made.model(maker(cell), splits=splits, seq_len=seq_len, d_model=8, layers=1).eval()


def batches(made, part, tokens):
    return [made.batch(part, rows) for rows in sorted_batches(part.lengths, tokens)]


def test_a_batch_holds_the_texts_of_the_files(tmp_path):
    folder, made = write(tmp_path / "data"), task()
    splits = made.data(500, 0, folder)
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    batch = made.batch(splits.train, np.array([3, 0]))
    _, byte_pairs = made._scored
    for place, row in enumerate((3, 0)):
        source = batch["tokens"][place][batch["mask"][place]].tolist()
        assert byte_pairs.decode(source) == rows[row]["article"]
        target = batch["target"][place].tolist()
        length = int(batch["target_mask"][place].sum())
        assert target[0] == BEGIN
        assert target[length] == END
        assert byte_pairs.decode(target[1:length]) == rows[row]["abstract"]
        assert not any(target[length + 1 :])
    assert batch["rows"].tolist() == [3, 0]


def test_what_is_cut_is_counted_and_the_reference_stays_whole(tmp_path):
    folder = write(tmp_path / "data")
    cut, whole = task(max_length=3), task()
    splits = cut.data(5, 0, folder)
    assert splits.facts["source_truncated_share"] == splits.facts["target_truncated_share"] == 1
    assert splits.train.source_lengths.max() == 5
    assert splits.train.target_lengths.max() == 3
    assert whole.data(500, 0, folder).facts["source_truncated_share"] == 0
    assert splits.priors == whole.data(500, 0, folder).priors


def test_scores_belong_to_their_documents_whatever_the_batches(tmp_path):
    """Every text is scored against its own reference, in the order of the files."""
    folder, made = write(tmp_path / "data"), task(beams=2)
    splits = made.data(64, 0, folder)
    model = model_of(made, splits)
    scores = [made.score(model, batches(made, splits.test, tokens)) for tokens in (1, 200, 10_000)]
    documents, byte_pairs = made._scored
    texts = {}
    for batch in batches(made, splits.test, 1):
        for row, tokens in zip(batch["rows"].tolist(), made.generated(model, batch), strict=True):
            texts[row] = byte_pairs.decode(tokens)
    expected = rouge_scores(documents.summaries, [texts[row] for row in range(len(documents))])
    for found in scores:
        for name, each in expected.items():
            assert found[f"{name}_by_document"] == pytest.approx(each.tolist(), abs=1e-12)
            assert found[name] == pytest.approx(each.mean())
            assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]
        assert found["loss_nats"] == pytest.approx(scores[0]["loss_nats"], rel=1e-4)


def test_the_validation_loss_is_the_unsmoothed_mean_over_all_tokens(tmp_path):
    folder, made = write(tmp_path / "data"), task(smoothing=0.3, dropout=0.0)
    splits = made.data(64, 0, folder)
    model = model_of(made, splits)
    one = made.batch(splits.validation, np.arange(len(splits.validation)))
    with torch.no_grad():
        found = made.validate(model, batches(made, splits.validation, 150))
        forced = summed([made.forced(model, one)])
        assert found["loss_nats"] == pytest.approx(float(made.loss(model, one)), rel=1e-5)
        torch.nn.init.normal_(model.tokens.weight)  # no longer nearly uniform, so that smoothing costs
        plain = float(made.loss(model, one))
        assert float(made.loss(model.train(), one)) != pytest.approx(plain, rel=0.01)
    assert found["inverse_perplexity"] == pytest.approx(math.exp(-found["loss_nats"]))
    assert forced.rows == len(splits.validation)
    assert forced.tokens == int(one["target_mask"].sum())


def test_summaries_keep_the_lengths_that_were_asked_for(tmp_path):
    folder, made = write(tmp_path / "data"), task(min_length=6, max_length=9, no_repeat=0)
    splits = made.data(64, 0, folder)
    model = model_of(made, splits)
    for batch in batches(made, splits.test, 300):
        assert all(6 <= len(tokens) <= 9 for tokens in made.generated(model, batch))


def test_wrong_steps_are_refused_before_the_training(tmp_path, monkeypatch):
    folder, made = write(tmp_path / "data"), task()
    splits = made.data(64, 0, folder)
    model = model_of(made, splits)
    batch = made.full_batch(splits, 2, 64)
    made.check(model, splits, 64)
    right = type(model).step

    def wrong(self, tokens, state):
        logits, after = right(self, tokens, state)
        return logits, after._replace(read=state.read)  # every token stands at the first position

    monkeypatch.setattr(type(model), "step", wrong)
    with pytest.raises(Incorrect, match="differ from those of the forward pass"):
        check_generation(model, batch["tokens"], batch["target"])


def test_a_beam_that_mixes_up_its_hypotheses_is_refused(tmp_path, monkeypatch):
    folder, made = write(tmp_path / "data"), task()
    splits = made.data(64, 0, folder)
    model = model_of(made, splits)
    torch.nn.init.normal_(model.tokens.weight)
    made.check(model, splits, 64)
    right = type(model).reorder

    def first(self, state, rows):
        return right(self, state, rows[:, :1].expand_as(rows).contiguous())

    monkeypatch.setattr(type(model), "reorder", first)
    with pytest.raises(Incorrect, match="differ from those of the forward pass"):
        made.check(model, splits, 64)


def test_a_named_data_set_is_read_from_its_own_folder_alone(tmp_path):
    """Another data set beside it is not taken for it; the folder itself may be named."""
    folder = write(tmp_path / "data" / "sumpubmed")
    for data_dir in (folder.parent, folder):
        assert task(dataset="sumpubmed").fingerprint(data_dir)
    assert task(dataset="files").fingerprint(folder.parent)
    with pytest.raises(UsageError, match="there is no folder pubmed in it and no training part"):
        task(dataset="pubmed").fingerprint(folder.parent)


def test_the_documents_drawn_do_not_depend_on_other_parts(tmp_path):
    folder = write(tmp_path / "data")
    drawn = []
    for train in (0, 10, 20):
        made = task(train=train, test=4)
        made.data(64, 3, folder)
        drawn.append(made._scored[0].summaries)
    assert drawn[0] == drawn[1] == drawn[2]
    assert len(drawn[0]) == 4


def test_a_loss_that_is_no_number_says_so(tmp_path):
    folder, made = write(tmp_path / "data"), task()
    splits = made.data(64, 0, folder)
    model = model_of(made, splits)
    torch.nn.init.constant_(model.decoder.norm.weight, math.nan)
    with pytest.raises(Diverged, match="try a lower lr than"):
        made.validate(model, batches(made, splits.validation, 150))


def test_a_model_learns_and_its_record_has_all_columns(tmp_path):
    folder = write(tmp_path / "data", (("train", 400), ("validation", 20), ("test", 20)))
    toml = (
        'description = ""\ntimeout = "10m"\n[[grid]]\nmechanism = ["vanilla", "longformer:window=4"]\n'
        'probe = "accuracy"\nseq_len = 48\nbatch_size = 20\nd_model = 32\nheads = 2\nlayers = 1\n'
        'threads = 1\nrepeats = 1\ntask = "summarization:dataset=files,vocabulary=300,max_length=16,'
        'epochs=6,lr=0.01,dropout=0.0,beams=2"\n'
    )
    sweep = Sweep.from_toml(toml, "test", "summaries")
    frame = effbench.run(sweep, tmp_path / "out", data_dir=folder, executor=InlineExecutor())
    frame = frame.set_index("mechanism")
    assert (frame["status"] == "ok").all(), frame["reason"].tolist()
    row = frame.loc["vanilla"]
    assert row["metric"] == "rouge1"
    assert row["rouge1"] > 0.6  # two words of four are the same in every summary
    assert row["rouge1"] > row["rouge2"]
    assert row["prior_oracle"] > row["prior_lead_3"] > 0
    for name in ("encode_s", "decode_tokens_per_s", "beam_tokens_per_s", "state_bytes", "peak_bytes"):
        assert row[name] > 0
    assert row["decoder_self_attention"] == row["decoder_cross_attention"] == "vanilla"
    assert frame.loc["longformer", "decoder_cross_attention"].startswith("vanilla: ")
    raw = effbench.load(tmp_path / "out", raw=True).iloc[0]
    assert len(raw["samples_test_rouge1_by_document"]) == 20
    assert raw["samples_beam_width"] == pytest.approx([1, 2, 5, 10])
    assert raw["validation_metric"] == "inverse_perplexity"
    assert raw["samples_validation_loss_nats"][-1] < raw["samples_validation_loss_nats"][0]
    assert pd.notna(raw["validation_loss_nats"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "xsum"}, "dataset is 'xsum', not one of cnn-dailymail, pubmed"),
        ({"vocabulary": 10}, "vocabulary must be 259 to 65536, got 10"),
        ({"max_length": 0}, "max_length must be at least 1, got 0"),
        ({"min_length": 30}, r"min_length must be 0 to max_length \(24\), got 30"),
        ({"beams": 0}, "beams must be at least 1, got 0"),
        ({"test": 1}, "test must be 0 .all. or at least 2, got 1"),
        ({"smoothing": 1.0}, "smoothing must be at least 0 and below 1, got 1.0"),
        ({"decoder_layers": 0}, "decoder_layers must be at least 1, got 0"),
        ({"length_penalty": math.inf}, "length_penalty must be -10 to 10, got inf"),
        ({"length_penalty": 11.0}, "length_penalty must be -10 to 10, got 11.0"),
        ({"no_repeat": -1}, "no_repeat must be at least 0"),
    ],
)
def test_options_that_no_summary_can_have_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        task(**options)


def test_more_rows_than_there_are_and_no_folder_are_refused(tmp_path):
    folder = write(tmp_path / "data")
    with pytest.raises(UsageError, match="test=9 exceeds the 8 pairs"):
        task(test=9).fingerprint(folder)
    with pytest.raises(UsageError, match="pass --data-dir DIR"):
        task().fingerprint(None)
