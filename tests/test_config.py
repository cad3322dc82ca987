import dataclasses
import json

import numpy as np
import pytest

from minddpg import Config, ConfigError
from minddpg.config import PRESETS, preset_name


def test_paper_has_every_value_of_section_7():
    paper = Config.paper()
    assert (paper.actor_lr, paper.critic_lr) == (1e-4, 1e-3)  # not the other way round
    assert (paper.critic_weight_decay, paper.gamma, paper.tau) == (1e-2, 0.99, 0.001)
    assert (paper.hidden_sizes, paper.action_layer, paper.final_init) == ((400, 300), 1, 3e-3)
    assert (paper.batch_size, paper.buffer_size) == (64, 1_000_000)
    assert paper.normalisation == "batch"
    assert (paper.noise, paper.noise_theta, paper.noise_std) == ("ou", 0.15, 0.2)


def test_every_field_is_documented():
    for field in dataclasses.fields(Config):
        assert len(field.metadata["help"]) > 20, field.name
        if field.name != "dtype":
            assert "paper:" in field.metadata["help"] or "usual and paper:" in field.metadata["help"], field.name


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_survive_json(name):
    config = Config.preset(name)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_presets_by_environment():
    assert preset_name("Pendulum-v1") == "Pendulum-v1"
    assert preset_name("HalfCheetah-v5") == "mujoco"
    assert preset_name("Nowhere-v0") is None
    assert preset_name("paper") is None  # a preset, but no environment
    assert Config.for_environment("Nowhere-v0") == Config()
    assert Config.for_environment("Pendulum-v1") == PRESETS["Pendulum-v1"]
    with pytest.raises(ConfigError, match="no preset 'x'; choose from"):
        Config.preset("x")


BAD = [
    ("steps", 0), ("steps", 1.5), ("steps", True), ("batch_size", -1), ("buffer_size", "many"), ("algorithm", "sac"),
    ("policy_delay", 0), ("target_noise_std", -1), ("target_noise_clip", float("nan")), ("reward_scale", 0),
    ("n_step", 0), ("n_step", 10_001), ("max_grad_norm", 0), ("normalise_obs", 1), ("final_lr_share", 1.1),
    ("activation", "gelu"), ("invert_gradients", "yes"), ("normalisation", "group"), ("learning_starts", -1),
    ("update_every", 0), ("updates_per_step", 0), ("actor_lr", 0), ("actor_lr", -1e-3), ("critic_lr", float("nan")),
    ("critic_lr", float("inf")), ("critic_lr", "fast"), ("gamma", 1.0), ("gamma", -0.1), ("tau", 1.1), ("tau", -0.1),
    ("noise", "pink"), ("noise_std", -0.1), ("noise_theta", 1.5), ("critic_weight_decay", -1), ("action_layer", 2),
    ("action_layer", -1), ("final_init", 0), ("dtype", "float16"), ("hidden_sizes", (64, 0)), ("hidden_sizes", "64,64"),
    ("hidden_sizes", (1.5,)), ("hidden_sizes", None), ("batch_size", 2_000_000), ("learning_starts", 100_000),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD)
def test_bad_values_are_named_in_one_line(name, value):
    with pytest.raises(ConfigError, match=name) as caught:
        Config(**{name: value})
    assert "\n" not in str(caught.value)


def test_a_normalisation_needs_something_to_normalise():
    with pytest.raises(ConfigError, match="needs a hidden layer"):
        Config(normalisation="batch", hidden_sizes=())


def test_numpy_numbers_are_numbers():
    config = Config(steps=np.int64(3000), gamma=np.float32(0.5), hidden_sizes=np.array([4, 5]))
    assert (type(config.steps), config.steps, config.gamma, config.hidden_sizes) == (int, 3000, 0.5, (4, 5))
    assert json.loads(json.dumps(config.to_dict())) == config.to_dict()


def test_replace_and_unknown_fields():
    assert Config().replace(gamma=0.5, hidden_sizes=[3]).hidden_sizes == (3,)
    assert Config(hidden_sizes=5).hidden_sizes == (5,)
    assert Config(gamma=0, tau=1).tau == 1.0
    with pytest.raises(ConfigError, match="unknown hyperparameter learning_rate"):
        Config().replace(learning_rate=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().gamma = 0.5


def test_words_in_another_form_are_taken_at_once_or_refused_at_once():
    assert Config(dtype=np.dtype("float32")) == Config(dtype=np.str_("float32")) == Config()
    assert type(Config(dtype=np.dtype("float64")).dtype) is str
    for name, wrong in (("dtype", np.float32), ("dtype", np.dtype("int32")), ("dtype", None), ("noise", ["ou"])):
        with pytest.raises(ConfigError, match=f"^{name} must be .* or .*, not "):
            Config(**{name: wrong})
