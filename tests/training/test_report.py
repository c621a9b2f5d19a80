"""What a run prints."""


def test_accumulation_is_explained_at_the_start(session, capsys):
    session("trainer.accumulate_grad_batches=2")
    assert "BatchNorm and negatives of a batch see one micro-batch each" in capsys.readouterr().out
