"""The mistakes that `explain` knows by name: what each does, the line to look for, what to write instead.

How each is computed stands in search.py and steps.py. Where they were seen is told in ../planted.py and in README.md.
"""

from __future__ import annotations

from dataclasses import dataclass

ACTOR, CRITIC, STEP, TARGETS = "actor gradient", "critic gradient", "step", "targets"


@dataclass(frozen=True)
class Mistake:
    """One mistake. parts: the gradients or steps in which it is looked for. The lines are what to look for.

    untold: what a batch needs to tell it from the right thing.
    """

    name: str
    parts: tuple[str, ...]
    does: str
    instead: str
    torch: str
    tensorflow: str
    jax: str
    numpy: str
    untold: str = ""

    @property
    def lines(self) -> dict[str, str]:
        """By framework: torch, tensorflow, keras (TensorFlow's, under a tape), jax, numpy."""
        return {
            "torch": self.torch, "tensorflow": self.tensorflow, "keras": self.tensorflow, "jax": self.jax,
            "numpy": self.numpy,
        }  # fmt: skip

    def printed(self) -> list[str]:
        """The lines to look for, a framework each, in columns; Keras beside TensorFlow."""
        shown = {"tensorflow, keras": self.tensorflow, "jax": self.jax, "numpy": self.numpy}
        return [f"{name:<17}  {line}" for name, line in {"torch": self.torch, **shown}.items()]


BOTH = (ACTOR, CRITIC)
_ALL = (
    # --- the actor's seed
    Mistake(
        "no minus", (ACTOR,), "the actor descends Q: its loss is +mean Q, or the minus stands twice",
        "loss = -mean(Q(s, mu(s)))",
        "actor_loss = critic(obs, actor(obs)).mean()", "actor_loss = tf.reduce_mean(critic([obs, actor(obs)]))",
        "loss = lambda p: q(critic, obs, mu(p, obs)).mean()", "dq = np.full((n, 1), 1 / n)",
    ),
    Mistake(
        "sum for mean", BOTH, "N times too long: summed over the batch and never divided; Adam hides it, clipping and "
        "weight decay do not", "the mean over the batch, once",
        "loss.sum(), or autograd.grad(actions, params, grad_outputs=-dq_da) undivided",
        "tf.gradients(actions, weights, -dq_da), which sums over the batch, undivided",
        "jnp.sum(...) for jnp.mean(...)",
        "dq = -np.ones((n, 1)), or x.T @ dz without a 1 / n before it", "more than one sample",
    ),
    Mistake(
        "1/N twice", BOTH, "N times too short: divided by the batch size in the loss and once more later; Adam "
        "hides it",
        "divide where the loss is, and nowhere else",
        "loss = -q.mean() / len(obs)", "tape.gradient(tf.reduce_mean(...)), then [g / batch_size for g in gradients]",
        "jnp.mean(...) / n", "dq = -1 / n and dW = x.T @ dz / n", "more than one sample",
    ),
    Mistake(
        "mean over actions too", (ACTOR,), "act_dim times too short: the mean runs over samples and over actions",
        "sum over actions, mean over samples: the chain rule sums over the components of a",
        "loss = -(dq_da * actor(obs)).mean()", "loss = K.mean(-action_gradients * actions)",
        "-(dq_da * actions).mean()", "dact = -dq_da / dq_da.size", "more than one action",
    ),
    Mistake(
        "added up twice", BOTH, "twice too long: two backward passes were added up, or a loss counted twice",
        "clear gradients before each backward pass", "loss.backward() twice without optimizer.zero_grad()",
        "a persistent tape read twice and added", "two jax.grad results added", "dW += ... for dW = ...",
    ),
    Mistake(
        "weighted by Q", (ACTOR,), "each sample's gradient is multiplied by its own Q: the loss is -mean(Q^2) / 2",
        "loss = -mean(Q), in which dQ/da stands once and Q itself nowhere",
        "loss = -(q * dq_da * action)", "tape.gradient(actions, weights, output_gradients=-q * dq_da)",
        "vjp(-q * dq_da)", "dq = -q / n",
    ),
    # --- where Q is asked
    Mistake(
        "replayed action", (ACTOR,), "dQ/da is taken at the action that was replayed, not at mu(s)",
        "feed mu(s) of the batch's states to the critic", "critic(obs, batch.act)",
        "sess.run(action_gradients, {state: s, action: a_batch}), tape.watch(batch_act)",
        "jax.grad(q, 1)(obs, batch.act)",
        "critic_forward(critic, obs, batch.act)", "replayed actions that differ from mu(s), as with noise",
    ),
    Mistake(
        "target actor's action", (ACTOR,), "dQ/da is taken at the target actor's action",
        "the online actor's, whose weights are to move", "critic(obs, target_actor(obs))",
        "critic([obs, target_actor(obs)])", "q(critic, obs, mu(target_actor, obs))",
        "actor_forward(target_actor, obs)", "a target that differs from the network",
    ),
    Mistake(
        "action not scaled", (ACTOR,), "the critic reads tanh(z) here, and action_scale tanh(z) + action_offset "
        "elsewhere",
        "one function mu(s) in the environment's units, used everywhere", "critic(obs, torch.tanh(z))",
        "critic([obs, tf.tanh(z)])", "q(critic, obs, jnp.tanh(z))", "critic_forward(critic, obs, np.tanh(z))",
        "an action scale other than 1, or an offset",
    ),
    Mistake(
        "clipped action", (ACTOR,), "mu(s) is clipped to [-1, 1] before the critic reads it, and clipped ones get no "
        "gradient", "clip what goes to the environment, never inside the loss", "actor(obs).clamp(-1, 1)",
        "tf.clip_by_value(actor(obs), -1, 1)", "jnp.clip(mu(p, obs), -1, 1)", "np.clip(act, -1, 1)",
        "actions beyond 1",
    ),
    Mistake(
        "target critic", (ACTOR,), "the target critic is asked", "ask the online critic",
        "-target_critic(obs, actor(obs))",
        "target_critic([obs, actor(obs)])", "q(target_critic, obs, mu(p, obs))",
        "critic_forward(target_critic, obs, act)", "a target that differs from the network",
    ),
    Mistake(
        "critic before its step", (ACTOR,), "the critic is asked as it was before its own step: the order of the "
        "steps is "
        "another one than the paper's. Many do so, and it costs little",
        "critic's step, then the actor's, through the critic that has just moved",
        "actor_loss before critic_optimizer.step()",
        "actor's tape before critic_optimizer.apply_gradients", "actor_loss(actor, old_critic)",
        "actor_gradient before adam(critic, ...)", "a critic that has moved",
    ),
    Mistake(
        "wrong columns", (ACTOR,), "the gradient of other inputs of the critic is taken for dQ/da: an offset is wrong",
        "the action's columns of the joined layer's input", "grad[:, :act_dim] of the joined input",
        "gradients(q, joined)[:, :act_dim]", "jax.grad with the wrong argnums, or slice", "dx[:, :act_dim]",
    ),
    # --- the actor's output
    Mistake(
        "tanh' missing", (ACTOR,), "dQ/da goes past the tanh: not multiplied by 1 - tanh(z)^2",
        "dz = dact * action_scale * (1 - tanh(z)^2)",
        "torch.tanh under no_grad, or gradient put at the layer before it",
        "tf.gradients(pre_activation, weights, -dq_da)", "vjp of the network without its tanh", "dz = dact",
        "actions that are not close to 0",
    ),
    Mistake(
        "tanh' twice", (ACTOR,), "multiplied by 1 - tanh(z)^2 twice", "once, in the backward of the tanh itself",
        "dq_da * (1 - a**2) as grad_outputs of a = tanh(z)", "output_gradients=-dq_da * (1 - a**2)",
        "vjp(-dq_da * (1 - a**2))", "dz = dact * (1 - a**2) ** 2", "actions that are not close to 0",
    ),
    Mistake(
        "tanh' of the output", (ACTOR,), "1 - tanh(a)^2 with a = tanh(z): tanh was applied once too often",
        "1 - a^2, with a the tanh's own output", "1 - torch.tanh(a) ** 2", "1 - tf.tanh(a) ** 2",
        "1 - jnp.tanh(a) ** 2",
        "1 - np.tanh(a) ** 2", "actions that are not close to 0",
    ),
    Mistake(
        "tanh' of the scaled action", (ACTOR,), "1 - a^2 with the action in the environment's units",
        "1 - tanh(z)^2, before scale and offset", "1 - action ** 2", "1 - action ** 2", "1 - action ** 2",
        "dz = dact * (1 - act**2)", "an action scale other than 1, or an offset",
    ),
    Mistake(
        "1 + tanh^2", (ACTOR,), "the sign in tanh' is wrong: 1 + tanh(z)^2", "1 - tanh(z)^2", "1 + a ** 2",
        "1 + a ** 2",
        "1 + a ** 2", "dz = dact * (1 + a**2)", "actions that are not close to 0",
    ),
    Mistake(
        "action scale missing", (ACTOR,), "the bound's factor is left out on the way back",
        "dz = dact * action_scale * (1 - tanh(z)^2)", "grad_outputs given to tanh(z), not to scale * tanh(z)",
        "output_gradients given to tanh(z), not to the scaled action", "vjp of tanh(z), not of the scaled action",
        "dz = dact * (1 - t**2)", "an action scale other than 1",
    ),
    Mistake(
        "action scale twice", (ACTOR,), "the bound's factor is squared", "once, on the way from tanh(z) to the action",
        "grad_outputs=-dq_da * max_action for actions already scaled",
        "-dq_da * action_bound, for scaled_out = out * bound",
        "vjp(-dq_da * bound) of the scaled action", "dz = dact * scale**2 * (1 - t**2)", "an action scale other than 1",
    ),
    # --- both networks
    Mistake(
        "zero", BOTH, "no gradient arrives: detached, never computed, or a network that is dead on this batch",
        "keep the actions in the graph: critic(obs, actor(obs))",
        "actor(obs).detach(), .data, .numpy(), torch.no_grad()",
        "actor(obs).numpy(), stop_gradient, the call outside of the tape", "jax.lax.stop_gradient(mu(p, obs))",
        "a gradient array that is never written",
    ),
    Mistake(
        "critic's weights moved too", (CRITIC, STEP), "the actor's step also hands the critic d(-mean Q): it learns to "
        "promise more", "an optimiser of the actor's parameters alone",
        "Adam([*actor.parameters(), *critic.parameters()])",
        "optimizer.minimize(actor_loss) without var_list=actor_weights", "jax.grad over both trees, both updated",
        "backward(critic, dq) used in the actor's step",
    ),
    Mistake(
        "critic gradient added", (CRITIC,), "d(-mean Q(s, mu(s))) was added to the critic's own gradient: the actor's "
        "backward pass left it there", "clear the critic's gradients before its own backward pass",
        "actor_loss.backward(), then critic_loss.backward() without critic_optimizer.zero_grad()",
        "one tape for critic_loss + actor_loss", "jax.grad of critic_loss + actor_loss", "dcritic += ...",
    ),
    Mistake(
        "clipped by norm", BOTH, "shortened to a fixed length. Fine where it is meant",
        "nothing, or know that it is there", "torch.nn.utils.clip_grad_norm_",
        "tf.clip_by_norm, clipnorm=, clip_by_global_norm",
        "optax.clip_by_global_norm", "g * c / norm(g)", "a gradient longer than the limit",
    ),
    Mistake(
        "clipped by value", BOTH, "every element cut off at a bound. Fine where it is meant; it turns the gradient",
        "clip by norm, which keeps the direction", "torch.nn.utils.clip_grad_value_", "tf.clip_by_value, clipvalue=",
        "optax.clip", "np.clip(g, -c, c)", "elements beyond the bound",
    ),
    Mistake(
        "weight decay added", BOTH, "a multiple of the weights is in the gradient. The paper has it in the critic "
        "(1e-2) and "
        "not in the actor", "no L2 term in the actor's loss",
        "loss + c * sum(w.pow(2).sum()), weight_decay= in the optimiser",
        "kernel_regularizer=l2(c), tf.nn.l2_loss", "optax.add_decayed_weights, c * sum(jnp.sum(w**2))", "dW += c * W",
    ),
    Mistake(
        "weight gradient transposed", BOTH, "dW is its own transpose, which fits where a layer is square",
        "dW = x^T dz for W (in, out), dz^T x for (out, in)", "a custom backward that returns dz.T @ x, or x.T @ dz, "
        "for the other layout", "x^T dz for dz^T x by hand", "(dz.T @ x) for W of x @ W", "dW = dz.T @ x for x @ W",
    ),
    Mistake(
        "bias gradient missing", BOTH, "biases get no gradient", "db = sum over the batch of dz",
        "bias.requires_grad_(False), weights alone handed to the optimiser", "use_bias weights left out of the list",
        "weights alone updated", "db never written",
    ),
    Mistake(
        "another layer's mask", BOTH, "a hidden layer's activation slope is taken from another layer of its width",
        "the mask of the layer's own output", "a custom backward with saved tensors mixed up",
        "the same, in a custom gradient",
        "the same, in a custom vjp", "dz = dh * (h[l - 1] > 0), one index off",
    ),
    # --- the critic's target
    Mistake(
        "square's 2 missing", (CRITIC,), "half as long: (q - y) / N for the gradient of mean (q - y)^2, or the loss "
        "has 1/2. "
        "Fine where it is meant", "2 (q - y) / N, or say that the loss is halved", "0.5 * mse_loss",
        "0.5 * tf.reduce_mean(...), tf.nn.l2_loss", "0.5 * jnp.mean(...)", "dq = (q - y) / n",
    ),
    Mistake(
        "critic climbs its loss", (CRITIC,), "the sign of the critic's gradient: y - q where q - y belongs",
        "dq = 2 (q - y) / N", "(-critic_loss).backward()", "tape.gradient(-critic_loss, ...)", "jax.grad of -loss",
        "dq = 2 * (y - q) / n",
    ),
    Mistake(
        "Huber loss", (CRITIC,), "errors beyond 1 are clipped: smooth L1 instead of the square. Fine where it is "
        "meant; the "
        "paper has the square", "mean (q - y)^2", "F.smooth_l1_loss, nn.HuberLoss", "tf.keras.losses.Huber",
        "optax.huber_loss", "np.clip(q - y, -1, 1)", "errors beyond 1",
    ),
    Mistake(
        "target is not detached", (CRITIC,), "gradient flows through y = r + gamma Q' into the same critic",
        "y is data", "y without torch.no_grad() or .detach()", "y computed inside the tape, without stop_gradient",
        "y without jax.lax.stop_gradient", "dcritic includes dy", "transitions that are not terminal",
    ),
    Mistake(
        "terminal mask missing", (CRITIC,), "y goes on past the end: r + gamma Q' where the episode has terminated",
        "r + gamma (1 - terminated) Q'", "rew + gamma * q_next", "rew + gamma * q_next", "rew + gamma * q_next",
        "y = rew + gamma * next_q", "a transition that is terminal",
    ),
    Mistake(
        "terminal mask inverted", (CRITIC,), "Q' counts at the end and nowhere else",
        "r + gamma (1 - terminated) Q'", "gamma * done * q_next", "gamma * done * q_next", "gamma * done * q_next",
        "y = rew + gamma * terminated * next_q",
    ),
    Mistake(
        "truncated as terminated", (CRITIC,), "a time limit counts as an end: the future is taken as worthless there",
        "terminated alone", "done = terminated or truncated", "done = terminated or truncated",
        "done = terminated | truncated", "1 - (terminated | truncated)",
        "a transition that is truncated and not terminal",
    ),
    Mistake(
        "gamma missing", (CRITIC,), "y = r + Q': the future is not discounted", "r + gamma (1 - terminated) Q'",
        "rew + (1 - done) * q_next", "rew + (1 - done) * q_next", "rew + (1 - done) * q_next",
        "y = rew + (1 - terminated) * next_q", "gamma other than 1, transitions that are not terminal",
    ),
    Mistake(
        "online networks in the target", (CRITIC,), "y asks the network that learns, where its target belongs",
        "Q'(s', mu'(s')), both of the targets", "critic(next_obs, actor(next_obs))",
        "critic([next_obs, actor(next_obs)])",
        "q(critic, next_obs, mu(actor, next_obs))", "critic_forward(critic, next_obs, next_act)",
        "targets that differ from their networks",
    ),
    Mistake(
        "replayed action in the target", (CRITIC,), "y = r + gamma Q'(s', a) with the action of this step",
        "Q'(s', mu'(s'))", "target_critic(next_obs, act)", "target_critic([next_obs, act])", "q(target, next_obs, act)",
        "critic_forward(target_critic, next_obs, batch.act)", "transitions that are not terminal",
    ),
    Mistake(
        "this state in the target", (CRITIC,), "y = r + gamma Q'(s, mu'(s')): obs where next_obs belongs",
        "Q'(s', mu'(s'))",
        "target_critic(obs, next_act)", "target_critic([obs, next_act])", "q(target, obs, next_act)",
        "critic_forward(target_critic, obs, next_act)", "transitions that are not terminal",
    ),
    Mistake(
        "mu(s) for the replayed action", (CRITIC,), "the critic is taught Q(s, mu(s)) with the reward of another "
        "action",
        "Q(s, a) with the action that was replayed", "mse(critic(obs, actor(obs)), y)", "critic([obs, actor(obs)])",
        "q(critic, obs, mu(actor, obs))", "critic_forward(critic, obs, act)", "replayed actions that differ from mu(s)",
    ),
    Mistake(
        "broadcast (N,1)-(N,)", (CRITIC,), "(N, 1) meets (N,): an N x N table, whose mean pulls all of Q to one number",
        "both (N,), or both (N, 1)", "q (N, 1) - y (N,): q.squeeze(-1)", "q (N, 1) - y (N,): tf.squeeze(q, -1)",
        "q (N, 1) - y (N,): q[:, 0]", "q - y with q (N, 1): q.reshape(-1)", "more than one sample",
    ),
    # --- targets and steps
    Mistake(
        "tau reversed", (TARGETS,), "target = (1 - tau) online + tau target: nearly a copy",
        "target += tau (online - target), tau about 0.005", "t.copy_((1 - tau) * p + tau * t)",
        "(1 - tau) * w + tau * t",
        "optax.incremental_update(online, target, 1 - tau)", "target[:] = tau * target + (1 - tau) * online",
    ),
    Mistake(
        "hard copy", (TARGETS,), "the target becomes the network: tau = 1", "target += tau (online - target)",
        "target.load_state_dict(online.state_dict())", "target.set_weights(online.get_weights())", "target = online",
        "target[:] = online",
    ),
    Mistake(
        "swapped", (TARGETS,), "the network moves towards its target, and the target stands",
        "target += tau (online - target)", "p.copy_(tau * t + (1 - tau) * p)", "online.assign(...)",
        "optax.incremental_update(target, online, tau)", "polyak(online, target, tau)",
    ),
    Mistake(
        "not moved", (TARGETS, STEP), "nothing moves", "call it in every update",
        "the update is never called, or on a copy",
        "assign never run", "the returned tree is dropped", "a new array instead of target[:]",
    ),
    Mistake(
        "step uphill", (STEP,), "the step climbs the loss: params + lr * step", "params - lr * step",
        "maximize=True, or p += lr * p.grad", "assign_add(lr * g)", "params + lr * g, without optax's minus",
        "params += lr * step",
    ),
    Mistake(
        "two steps", (STEP,), "two optimiser steps in one update", "one", "optimizer.step() twice",
        "apply_gradients twice", "optimizer.update applied twice", "adam(...) called twice",
    ),
)  # fmt: skip

DDPG_MISTAKES = {mistake.name: mistake for mistake in _ALL}
