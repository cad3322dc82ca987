"""`minddpg explain`: files under many names, templates, and one line for what cannot be read."""

import json

import numpy as np
import pytest
from test_explain import plain_case

from minddpg import cli
from minddpg.gradcheck import DDPG_MISTAKES, ExplainError
from minddpg.gradcheck.explaining.files import TEMPLATES, arguments


def named(case, gradient, style="{}.{}", **more):
    nets = {**case.nets, "actor_gradient": gradient}
    arrays = {style.format(name, i): a for name, net in nets.items() for i, a in enumerate(net)}
    return {**arrays, "obs": case.obs, "act": case.act, "action_scale": case.scale, **more}


def right_and_wrong():
    from planted_ddpg import numpy_actor

    case = plain_case()
    return case, numpy_actor(case, ()), numpy_actor(case, ("1/N twice",))


def test_exit_status_and_output(capsys):
    case, right, wrong = right_and_wrong()
    np.savez("right.npz", **named(case, right))
    np.savez("wrong.npz", **named(case, wrong))
    assert cli.main(["explain", "right.npz"]) == 0
    assert "actor gradient  right, to" in capsys.readouterr().out
    assert cli.main(["explain", "wrong.npz"]) == 1
    assert "1/N twice: reproduces it to" in capsys.readouterr().out
    assert cli.main(["explain", "wrong.npz", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["mistakes"] == ["1/N twice"]


@pytest.mark.parametrize("style", ["{}_{}", "{}/layer_{}:0", "{}.layers.{}.x", "{}['{}']"])
def test_names_are_forgiven(style):
    case, right, _ = right_and_wrong()
    arrays = named(case, right, style)
    handed, notes = arguments(dict(sorted(arrays.items(), reverse=True)))
    for key in (*case.nets, "actor_gradient"):
        wanted = right if key == "actor_gradient" else case.nets[key]
        assert all(np.array_equal(a, b) for a, b in zip(handed[key], wanted, strict=True)), key
    assert notes == []


def test_other_peoples_words():
    case, right, _ = right_and_wrong()
    arrays = named(case, right)
    for ours, theirs in {"obs": "States", "act": "actions", "action_scale": "max_action"}.items():
        arrays[theirs] = arrays.pop(ours)
    arrays |= {"done": case.terminated, "reward": case.rew, "s2": case.next_obs, "discount": 0.9}
    arrays |= {f"actor_grads.{i}": arrays.pop(f"actor_gradient.{i}") for i in range(6)}
    arrays |= {f"critic_target_{i}": arrays.pop(f"target_critic.{i}") for i in range(6)}
    arrays |= {"activation": "relu", "action_layer": 0}
    handed, notes = arguments(arrays)
    batch = {"obs", "act", "rew", "next_obs", "terminated", "gamma", "action_scale", "action_layer", "activation"}
    assert batch | {*case.nets, "actor_gradient"} == {*handed}
    assert handed["gamma"] == 0.9
    assert handed["activation"] == "relu"
    assert "done was taken as terminated" in notes[0]


def test_weights_and_biases_in_groups():
    case, right, _ = right_and_wrong()
    arrays = {f"actor_b{i}": case.nets["actor"][2 * i + 1] for i in range(3)}
    arrays |= {f"actor_W{i}": case.nets["actor"][2 * i] for i in range(3)}
    rest = {k: v for k, v in named(case, right).items() if not k.startswith("actor.")}
    handed, _ = arguments({**rest, **arrays})
    assert all(np.array_equal(a, b) for a, b in zip(handed["actor"], case.nets["actor"], strict=True))


def test_what_cannot_be_read(capsys):
    case, right, _ = right_and_wrong()
    np.savez("objects.npz", actor=np.array([None, "x"], dtype=object))
    np.savez("short.npz", obs=case.obs)
    np.savez("strange.npz", obs=case.obs, act=case.act, actr=np.ones((3, 2)))
    np.save("one.npy", case.obs)
    np.savez("shapes.npz", **named(case, right[:-1]))
    with open("text.npz", "w") as file:
        file.write("no archive")
    for words, said in [
        (["nowhere.npz"], "nowhere.npz is not there"),
        (["text.npz"], "text.npz is no .npz of arrays (it cannot be read)"),
        (["one.npy"], "one.npy is no .npz of arrays (it cannot be read)"),
        (["objects.npz"], "it holds None or other Python objects"),
        (["short.npz"], "actor, critic, act are missing from the file"),
        (["strange.npz"], "actor, critic are missing from the file, and actr is no name that is known"),
        (["shapes.npz"], "has 5 arrays and its parameters 6"),
        ([], "say one of FILE, --template and --catalogue"),
        (["text.npz", "--catalogue"], "say one of FILE, --template and --catalogue"),
        (["--template", "caffe"], "invalid choice: 'caffe'"),
    ]:
        with pytest.raises(SystemExit) as end:
            cli.main(["explain", *words])
        assert end.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("minddpg: error: ")
        assert said in error
        assert error.count("\n") == 1


def test_what_else_is_in_the_file_is_left_aside(capsys):
    case, right, _ = right_and_wrong()
    np.savez("more.npz", **named(case, right, loss=np.ones(3)))
    assert cli.main(["explain", "more.npz"]) == 0
    assert "loss was left aside: no name that is known" in capsys.readouterr().out


def test_two_arrays_of_one_meaning():
    case, right, _ = right_and_wrong()
    with pytest.raises(ExplainError, match="are both obs"):
        arguments(named(case, right, states=case.obs))


def test_the_catalogue(capsys):
    assert cli.main(["explain", "--catalogue"]) == 0
    text = capsys.readouterr().out
    assert all(f"{name} (" in text for name in DDPG_MISTAKES)
    assert cli.main(["explain", "--catalogue", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(DDPG_MISTAKES)


@pytest.mark.parametrize("framework", ["torch", "numpy", "tensorflow", "jax", "keras"])
def test_templates(framework, capsys):
    """They are printed, they are Python, and those of what is installed here write a file that is read."""
    assert cli.main(["explain", "--template", framework]) == 0
    text = capsys.readouterr().out
    assert text.startswith(TEMPLATES[framework].rstrip())
    compile(text, framework, "exec")
    case, right, _ = right_and_wrong()
    names = {"obs": case.obs, "act": case.act, "max_action": 2.0}
    if framework == "numpy":
        names |= {"actor": case.nets["actor"], "critic": case.nets["critic"], "gradient": right}
    elif framework == "torch":
        torch = pytest.importorskip("torch")

        class Module:
            def __init__(self, tensors, gradients):
                self.tensors = [torch.tensor(t) for t in tensors]
                for tensor, gradient in zip(self.tensors, gradients, strict=True):
                    tensor.grad = torch.tensor(gradient)

            def parameters(self):
                return self.tensors

        names |= {name: Module(net, right if name == "actor" else net) for name, net in case.nets.items()}
    else:
        return
    exec(text, names)
    assert cli.main(["explain", "update.npz"]) == 0
    if framework == "torch":  # nothing arrived there
        for tensor in names["actor"].tensors:
            tensor.grad = None
        exec(text, names)
        capsys.readouterr()
        assert cli.main(["explain", "update.npz"]) == 1
        assert "actor gradient  zero" in capsys.readouterr().out
