"""What trackers must not get."""

import pytest

from siamese.config import to_dict
from siamese.options import options
from siamese.training.tracking.privacy import is_secret, secrets, without_passwords, without_secrets


@pytest.mark.parametrize(
    "name",
    ["token", "hf_token", "HF_TOKEN", "accessToken", "tokens", "password", "db-password", "passwd", "pwd", "passphrase",
     "secret", "client_secret", "aws_secret_access_key", "api_key", "apiKey", "apikey", "API_KEYS", "key",
     "private_key", "credential", "credentials", "auth", "authorization", "bearer", "cookie"],
)  # fmt: skip
def test_names_of_secrets(name):
    assert is_secret(name)


@pytest.mark.parametrize(
    "name", ["lr", "queue_size", "keypoints", "author", "compiled", "passes", "tokenizer", "class"]
)
def test_other_names(name):
    assert not is_secret(name)


def test_no_setting_of_ours_is_hidden(config):
    choices = [f"{group}={option}" for group in ("method", "data", "backbone", "optimizer", "trainer")
               for option in options(group)]  # fmt: skip
    for choice in [*choices, "logger=[wandb,tensorboard,mlflow]"]:
        values = to_dict(config(choice))
        assert without_secrets(values) == values, choice


def test_secrets_are_hidden_at_any_depth():
    config = {
        "a": {"api_key": "k1", "deep": [{"password": "p1", "lr": 0.1}]}, "credentials": {"user": "u", "x": "y"},
        "token": None, "path": "s3://me:p2@host/x?size=3&X-Amz-Signature=s1", "seed": 0,
    }  # fmt: skip
    assert without_secrets(config) == {
        "a": {"api_key": "(hidden)", "deep": [{"password": "(hidden)", "lr": 0.1}]}, "credentials": "(hidden)",
        "token": None, "path": "s3://(hidden)@host/x?size=3&X-Amz-Signature=(hidden)", "seed": 0,
    }  # fmt: skip
    assert secrets(config) == ["a.api_key", "a.deep.0.password", "credentials", "path"]


@pytest.mark.parametrize("text", ["https://host/a@b", "a@b", "photos/x?y", "s3://bucket/{000..100}.tar", ""])
def test_other_texts_stay(text):
    assert without_passwords(text) == text


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("s3://me:p@ss@host/x", "s3://(hidden)@host/x"),
        ("postgresql://mlflow:pa/ss@db/x", "postgresql://(hidden)@db/x"),
        ("redis://:pw@host:1", "redis://(hidden)@host:1"),
        ("see s3://a:b@h and https://host/me@x", "see s3://(hidden)@h and https://host/me@x"),
        ("https://u:p/w@h:80/x?token=1", "https://(hidden)@h:80/x?token=(hidden)"),
    ],
)
def test_passwords_with_the_signs_of_an_address_are_hidden(text, hidden):
    assert without_passwords(text) == hidden
