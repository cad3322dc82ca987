"""Arrays in one .npz as arguments for `explain`, whatever they are called; and the lines that write such a file."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from .arrays import ExplainError

NETWORKS = {
    "actor": ("actor", "policy", "mu", "pi"),
    "critic": ("critic", "q", "qf", "qf1", "value"),
    "target_actor": ("target_actor", "actor_target", "target_policy", "policy_target"),
    "target_critic": ("target_critic", "critic_target", "target_q", "q_target"),
    "critic_before": ("critic_before", "old_critic", "critic_old"),
    "actor_after": ("actor_after", "new_actor", "actor_new"),
    "critic_after": ("critic_after", "new_critic", "critic_new"),
    "target_actor_after": ("target_actor_after", "actor_target_after", "new_target_actor"),
    "target_critic_after": ("target_critic_after", "critic_target_after", "new_target_critic"),
    "actor_gradient": ("actor_gradient", "actor_gradients", "actor_grad", "actor_grads", "grad_actor", "dactor",
                       "dtheta"),
    "critic_gradient": ("critic_gradient", "critic_gradients", "critic_grad", "critic_grads", "grad_critic", "dcritic"),
}  # fmt: skip
ARRAYS = {
    "obs": ("obs", "observation", "observations", "state", "states", "s"),
    "act": ("act", "action", "actions", "a"),
    "rew": ("rew", "reward", "rewards", "r"),
    "next_obs": ("next_obs", "next_observation", "next_observations", "next_state", "next_states", "obs2", "s2"),
    "terminated": ("terminated", "terminal", "terminals", "termination", "done", "dones", "d"),
    "truncated": ("truncated", "truncation", "truncations", "timeout", "timeouts"),
    "action_scale": ("action_scale", "action_bound", "max_action", "scale"),
    "action_offset": ("action_offset", "action_bias", "offset"),
}
NUMBERS = {"gamma": ("gamma", "discount"), "action_layer": ("action_layer",)}
WORDS = {"activation": ("activation",), "layout": ("layout",)}


def read(path: str | Path) -> tuple[dict[str, Any], list[str]]:
    """Keyword arguments for `explain`, and notes. Raises ExplainError."""
    try:
        if not zipfile.is_zipfile(path) and Path(path).is_file():
            raise zipfile.BadZipFile
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        raise ExplainError(f"{path} is not there") from None
    except (OSError, ValueError, EOFError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        objects = "pickle" in str(error).lower()
        why = "it holds None or other Python objects: write arrays alone" if objects else "it cannot be read"
        raise ExplainError(
            f"{path} is no .npz of arrays ({why}); 'minddpg explain --template numpy' writes one"
        ) from None
    return arguments(arrays)


def arguments(arrays: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The same of arrays by name. A network's come as actor.0.weight, actor_W0, actor/fc1/kernel:0, ...

    Upper and lower case and whatever separates words do not count; the longest known name decides. A network's arrays
    are taken by the numbers in their names where all have one, else in the order of the file.
    """
    single = {_plain(name): key for group in (ARRAYS, NUMBERS, WORDS) for key, names in group.items() for name in names}
    starts = {_plain(name): key for key, names in NETWORKS.items() for name in names}
    found: dict[str, Any] = {}
    members: dict[str, list[tuple[str, Any]]] = {}
    notes, unknown = list[str](), list[str]()
    for name, array in arrays.items():
        plain = _plain(name)
        start = max((s for s in starts if plain == s or plain.startswith(s + "_")), key=len, default=None)
        if plain in single and (start is None or len(plain) > len(start)):
            key = single[plain]
            if key in found:
                raise ExplainError(f"{name} and another array are both {key}; leave one out")
            if plain.startswith("done") or plain == "d":
                notes.append(
                    f"{name} was taken as terminated: with the ends by time limit left out of it, it should be"
                )
            found[key] = array
        elif start is not None:
            members.setdefault(starts[start], []).append((plain[len(start) :], array))
        else:
            unknown.append(name)
    for key, parts in members.items():
        digits = [[int(d) for d in re.findall(r"\d+", rest)] for rest, _ in parts]
        order = list(range(len(parts)))
        if all(digits) and len({len(d) for d in digits}) == 1:
            order.sort(key=lambda at: (digits[at], -np.ndim(parts[at][1])))
        found[key] = [parts[at][1] for at in order]
    for key in NUMBERS:
        if key in found:
            value = np.asarray(found[key]).reshape(-1)
            if value.size != 1 or not np.issubdtype(value.dtype, np.number):
                raise ExplainError(f"{key} must be one number")
            found[key] = int(value[0]) if key == "action_layer" else float(value[0])
    for key in WORDS:
        if key in found:
            words = [str(word) for word in np.asarray(found[key]).reshape(-1)]
            found[key] = words[0] if len(words) == 1 else tuple(words)
    missing = [key for key in ("actor", "critic", "obs", "act") if key not in found]
    if missing:
        known = ", ".join(["actor.0.weight", "critic.0.weight", "actor_gradient.0.weight", *ARRAYS, *NUMBERS])
        but = f", and {', '.join(unknown)} is no name that is known; names are {known}, ..." if unknown else ""
        raise ExplainError(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing from the file{but}")
    notes += [f"{name} was left aside: no name that is known" for name in unknown]
    found.setdefault("actor_gradient", None)
    return found, notes


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


_BATCH = """
# ... and where they are at hand: rew, next_obs, terminated, truncated, gamma, target_actor.*, target_critic.*,
# critic_gradient.*, critic_before.*, *_after.*; action_scale, action_offset, action_layer, activation.
"""

TEMPLATES = {
    "torch": """# In your update, after actor_loss.backward() and before actor_optimizer.step():
import numpy as np

arrays = {"obs": obs, "act": act, "action_scale": max_action}  # the batch, as tensors; the bound, as a number
nets = {"actor": actor, "critic": critic, "target_actor": target_actor, "target_critic": target_critic}
for name, net in nets.items():
    arrays |= {f"{name}.{i}": p for i, p in enumerate(net.parameters())}
arrays |= {
    f"actor_gradient.{i}": 0 * p if p.grad is None else p.grad for i, p in enumerate(actor.parameters())
}
arrays = {k: v.detach().cpu() if hasattr(v, "detach") else v for k, v in arrays.items()}
np.savez("update.npz", **{k: np.asarray(v) for k, v in arrays.items()})
""",
    "tensorflow": """# In your update, after gradients = tape.gradient(actor_loss, actor.trainable_variables):
import numpy as np

arrays = {"obs": obs, "act": act, "action_scale": max_action}  # the batch; the bound, as a number
nets = {"actor": actor, "critic": critic, "target_actor": target_actor, "target_critic": target_critic}
for name, net in nets.items():
    arrays |= {f"{name}.{i}": w for i, w in enumerate(net.trainable_variables)}
for i, (w, g) in enumerate(zip(actor.trainable_variables, gradients)):
    arrays[f"actor_gradient.{i}"] = 0 * w if g is None else g
np.savez("update.npz", **{k: np.asarray(v) for k, v in arrays.items()})
""",
    "keras": """# In your update, after gradients = tape.gradient(actor_loss, actor.trainable_variables):
import numpy as np

arrays = {"obs": obs, "act": act, "action_scale": max_action}  # the batch; the bound, as a number
nets = {"actor": actor, "critic": critic, "target_actor": target_actor, "target_critic": target_critic}
for name, net in nets.items():
    arrays |= {f"{name}.{i}": w for i, w in enumerate(net.get_weights())}
for i, (w, g) in enumerate(zip(actor.trainable_variables, gradients)):
    arrays[f"actor_gradient.{i}"] = 0 * w if g is None else g
np.savez("update.npz", **{k: np.asarray(v) for k, v in arrays.items()})
""",
    "jax": """# In your update, after gradients = jax.grad(actor_loss)(actor_params):
import jax
import numpy as np

arrays = {"obs": obs, "act": act, "action_scale": max_action}  # the batch; the bound, as a number
trees = {"actor": actor_params, "critic": critic_params, "actor_gradient": gradients}
for name, tree in trees.items():
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    arrays |= {name + jax.tree_util.keystr(path): x for path, x in leaves}
np.savez("update.npz", **{k.replace("/", "."): np.asarray(v) for k, v in arrays.items()})
""",
    "numpy": """# In your update, before the actor's step: actor, critic and gradient are lists [W0, b0, W1, b1, ...].
import numpy as np

arrays = {"obs": obs, "act": act, "action_scale": max_action}  # the batch; the bound, as a number
for name, tensors in {"actor": actor, "critic": critic, "actor_gradient": gradient}.items():
    arrays |= {f"{name}.{i}": x for i, x in enumerate(tensors)}
np.savez("update.npz", **arrays)
""",
}


def template(framework: str) -> str:
    """The few lines that write such a file."""
    return f"{TEMPLATES[framework].rstrip()}\n{_BATCH.rstrip()}\n# Then: minddpg explain update.npz"
