import numpy as np
import pytest

from prefactory.errors import DataError
from prefactory.preferences.ideal_points import fit_pal, located

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
