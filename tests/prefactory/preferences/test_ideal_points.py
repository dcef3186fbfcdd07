import numpy as np
import pytest

from prefactory.errors import DataError
from prefactory.preferences.ideal_points import PALBModel, fit_pal, fit_pal_b, located

GROUP = np.arange(20) % 2


def pairs(rng, ideals, n):
    """Pairs of 20 users of two groups, who prefer the answer nearer to their ideal point."""
    user = rng.integers(20, size=n)
    left, right = rng.normal(size=(2, n, 8))
    ideal = ideals[GROUP[user]]
    nearer = np.linalg.norm(left - ideal, axis=1) > np.linalg.norm(right - ideal, axis=1)
    return [f"u{u:02d}" for u in user], left, right, np.where(nearer, 1, -1)


def toy(seed=2, n=1200):
    rng = np.random.default_rng(seed)
    ideals = rng.normal(size=(2, 8))
    return pairs(rng, ideals, n), pairs(rng, ideals, 4000), ideals


def accuracy(model, data):
    users, left, right, y = data
    who, gap = np.array(users), np.empty(len(y))
    for user in model.users:
        at = who == user
        gap[at] = model.reward(user, right[at]) - model.reward(user, left[at])
    return (np.sign(gap) == y).mean()


def test_two_prototypes_find_two_groups():
    train, test, _ = toy()
    one, two = (fit_pal(*train, prototypes=k, starts=2) for k in (1, 2))
    print(f"K=1 {accuracy(one, test):.3f}, K=2 {accuracy(two, test):.3f}")  # noqa: T201 - to read
    assert 0.75 < accuracy(one, test) < 0.85
    assert accuracy(two, test) >= 0.93
    strongest = two.user_weights.argmax(axis=1)
    assert (strongest == GROUP).all() or (strongest != GROUP).all()
    assert two.users == tuple(f"u{i:02d}" for i in range(20))
    assert two.user_weights.sum(axis=1) == pytest.approx(np.ones(20))
    assert two.loss < one.loss


def test_a_new_user_needs_few_pairs():
    train, _, ideals = toy()
    model = fit_pal(*train, starts=2)
    rng = np.random.default_rng(9)
    members = model.user_weights[GROUP == 1].mean(axis=0)
    left, right = rng.normal(size=(2, 30, 8))
    far = [np.linalg.norm(side - ideals[1], axis=1) for side in (left, right)]
    logits = located(model, left, right, np.where(far[0] > far[1], 1, -1))
    weights = np.exp(logits) / np.exp(logits).sum()
    assert weights.sum() == pytest.approx(1)
    assert weights.argmax() == members.argmax()


def test_unseen_users_get_the_mean_of_the_logits():
    train, _, _ = toy(n=200)
    model = fit_pal(*train, starts=1, steps=20)
    logits = model.logits.mean(axis=0)
    expected = np.exp(logits) / np.exp(logits).sum()
    assert model.weights_of("nobody") == pytest.approx(expected)
    x = train[1][:5]
    assert model.reward("nobody", x).tolist() == model.reward(None, x).tolist()
    assert (model.reward(None, x) <= 0).all()


def test_same_seed_same_model_and_order_matters_by_rounding_only():
    train, _, _ = toy(n=300)
    users, left, right, y = train
    first, again = (fit_pal(*train, starts=2, steps=60) for _ in range(2))
    assert first.prototypes.tolist() == again.prototypes.tolist()
    order = np.random.default_rng(0).permutation(300)
    other = fit_pal(
        [users[i] for i in order], left[order], right[order], y[order], starts=2, steps=60
    )
    assert other.prototypes == pytest.approx(first.prototypes, abs=1e-6)


def test_swapping_sides_and_labels_changes_nothing():
    users, left, right, y = toy(n=300)[0]
    one = fit_pal(users, left, right, y, starts=1, steps=60)
    two = fit_pal(users, right, left, -y, starts=1, steps=60)
    assert two.prototypes == pytest.approx(one.prototypes, abs=1e-6)


def test_a_linear_map_ignores_noise_dimensions():
    train, test, _ = toy(n=600)
    noise = np.random.default_rng(5)

    def wider(data):
        users, left, right, y = data
        more = noise.normal(size=(2, len(y), 8)) * 3
        return users, np.hstack([left, more[0]]), np.hstack([right, more[1]]), y

    train, test = wider(train), wider(test)
    plain, mapped = (fit_pal(*train, linear=m, starts=1, steps=300) for m in (False, True))
    assert accuracy(mapped, test) > accuracy(plain, test) + 0.03
    assert mapped.projection.shape == (16, 16)


def test_odd_input():
    one = np.ones((1, 3))
    model = fit_pal(["a"], one, one, np.array([1]), steps=3, starts=1)  # no difference to learn
    assert np.isfinite(model.reward("a", one)).all()
    with pytest.raises(DataError, match="labels are"):
        fit_pal(["a"], one, one, np.array([0]))
    with pytest.raises(DataError, match="0 users"):
        fit_pal([], one[:0], one[:0], np.array([]))
    with pytest.raises(DataError, match="1 users"):
        fit_pal(["a"], one, one[:, :2], np.array([1]))


# -- PAL-B: the ideal point moves with the prompt -----


def moving(n=800, seed=0):
    """One group likes answers that point the prompt's way, the other those that point away."""
    rng = np.random.default_rng(seed)
    user = rng.integers(20, size=n)
    prompts, left, right = rng.normal(size=(3, n, 4))
    lean = [(side * prompts).sum(axis=1) / np.linalg.norm(side, axis=1) for side in (left, right)]
    liked = (1 - 2 * GROUP[user]) * (lean[1] - lean[0])
    return [f"u{u:02d}" for u in user], prompts, left, right, np.where(liked > 0, 1, -1)


def told(model, data):
    """Share of labels that a model tells right."""
    users, prompts, left, right, y = data
    weights = model.user_weights[[model.users.index(u) for u in users]]
    gap = model.rewards(right, weights, prompts) - model.rewards(left, weights, prompts)
    return (np.sign(gap) == y).mean(), gap * y


def test_the_reward_of_b_is_a_scaled_cosine_with_the_mixture():
    heads, offsets = np.array([[[1.0, 0.0]], [[0.0, 2.0]]]), np.array([[0.0, 0.0], [1.0, 0.0]])
    model = PALBModel(("a",), np.zeros((1, 2)), heads, offsets, np.eye(2), 10.0, 0.0)
    answers, prompts = np.array([[3.0, 4.0], [0.0, 5.0]]), np.array([[2.0], [2.0]])
    shares = np.array([[0.25, 0.75], [1.0, 0.0]])
    # .25 (2, 0) + .75 (1, 4) = (1.25, 3), of length 3.25; and (2, 0)
    expected = [10 * (3 * 1.25 + 4 * 3) / (5 * 3.25), 0.0]
    assert model.rewards(answers, shares, prompts) == pytest.approx(expected)
    assert model.rewards(7 * answers, shares, prompts) == pytest.approx(expected), "a cosine"


def test_the_fit_of_b_begins_at_the_papers_scale_and_stops_at_its_limit():
    data = moving(200)
    users, prompts, left, right, y = data
    begun = fit_pal_b(*data, steps=1, starts=1, rank=4)
    assert begun.sharpness == pytest.approx(1 / 0.07, rel=0.021)
    # one person, answers that differ by next to nothing, and always the same: ever surer
    near = left[:20] + 1e-3 * prompts[:20]
    far = fit_pal_b(["a"] * 20, prompts[:20], left[:20], near, np.ones(20), 1, 4, 400, 1)
    assert far.sharpness == 100.0
    model = fit_pal_b(*data, steps=30, starts=1, rank=4)
    assert model.loss == pytest.approx(np.logaddexp(0, -told(model, data)[1]).mean())
    turned = fit_pal_b(users, prompts, right, left, -y, steps=30, starts=1, rank=4)
    assert turned.loss == pytest.approx(model.loss), "sides and labels swapped"


@pytest.mark.slow
def test_a_taste_that_moves_with_the_prompt_is_found_by_b_alone_and_newcomers_are_placed():
    train, test = moving(1200), moving(1000, seed=1)
    users, _, left, right, y = train
    model = fit_pal_b(*train, rank=8, steps=250, starts=1)
    assert told(model, test)[0] > 0.9
    fixed = fit_pal(users, left, right, y, linear=True, steps=150, starts=1)
    assert accuracy(fixed, (test[0], *test[2:])) < 0.56, "no fixed point fits"
    new = moving(400, seed=2)
    for group in (0, 1):
        of = np.array([GROUP[int(u[1:])] == group for u in new[0]])
        some = np.flatnonzero(of)[:20]
        logits = located(model, new[2][some], new[3][some], new[4][some], prompts=new[1][some])
        assert logits.argmax() == model.logits[group == GROUP].mean(axis=0).argmax()
    with pytest.raises(DataError, match="depend on the prompt"):
        located(model, left[:2], right[:2], y[:2])
