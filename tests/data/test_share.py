"""Work shared out over processes is the same work: together their samples are those of one process."""

import pytest
import torch
from test_loader import PLAN, make_cases, make_recipe, take

from unetkit.data.loader import TrainingLoader
from unetkit.data.share import Share, merged


@pytest.mark.parametrize("world", [1, 2, 3])
def test_shares_cover_everything_once_and_merge_in_order(world):
    items = list(range(8))
    parts = [Share(rank, world).of(items) for rank in range(world)]
    assert merged(parts) == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert [row for rank in range(world) for row in Share(rank, world).rows(3)] == list(range(3 * world))


@pytest.mark.parametrize("steps_per_epoch", [5, None], ids=["drawn", "a pass over the cases"])
def test_two_loaders_of_batch_two_make_the_batches_of_one_of_batch_four(steps_per_epoch):
    cases = make_cases(PLAN, (20, 22, 24))
    whole = TrainingLoader(cases, PLAN, make_recipe(0, batch_size=4, steps_per_epoch=steps_per_epoch, accumulate=2))
    recipe = make_recipe(0, batch_size=2, steps_per_epoch=steps_per_epoch, accumulate=2)
    parts = [TrainingLoader(cases, PLAN, recipe, share=Share(rank, 2)) for rank in range(2)]
    assert [part.steps_per_epoch for part in parts] == [whole.steps_per_epoch] * 2
    for one, *two in zip(take(whole, 3, 3), *(take(part, 3, 3) for part in parts), strict=True):
        assert torch.equal(one.image, torch.cat([batch.image for batch in two]))
        assert torch.equal(one.label, torch.cat([batch.label for batch in two]))
        assert one.case_ids == tuple(case for batch in two for case in batch.case_ids)
