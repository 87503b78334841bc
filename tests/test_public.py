import pytest

import secateur as sc


def test_public_names_are_what_they_say() -> None:
    for name in sc.__all__:
        assert getattr(sc, name).__name__ == name
        assert name in dir(sc)


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'prnue'"):
        sc.prnue  # noqa: B018
