"""At which tokens completions end."""

import json
from pathlib import Path

from tests.policies import tiny_policy
from vibelite.data.chat import end_token_id
from vibelite.models.load import load_policy
from vibelite.rollout.engine import SamplingSettings, generate
from vibelite.rollout.transformers_engine import TransformersEngine
from vibelite.stages.engines import stop_ids_of
from vibelite.stages.export import write_directory


def test_every_end_that_a_model_names_ends_a_completion_and_is_exported(tmp_path: Path) -> None:
    made = tiny_policy()
    end, other, third = end_token_id(made.tokenizer), 70, 71
    made.model.generation_config.eos_token_id = [end, other]
    made.model.config.eos_token_id = third
    made.save(tmp_path / "model")
    policy = load_policy(tmp_path / "model")
    assert stop_ids_of(policy) == (end, other, third)
    engine = TransformersEngine(policy, stop_ids=stop_ids_of(policy), max_sequences=64)
    (completions,) = generate(engine, [[5, 6]], SamplingSettings(64, 300), seed=0)
    ends = {c.token_ids[-1] for c in completions if c.finish_reason == "stop"}
    assert ends == {end, other, third}
    assert all(not ends & set(completion.token_ids[:-1]) for completion in completions)
    write_directory(tmp_path / "model", tmp_path / "export")
    written = json.loads((tmp_path / "export" / "generation_config.json").read_text())
    assert written["eos_token_id"] == [end, other, third]
