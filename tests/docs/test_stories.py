"""docs/stories.md: each story happens at the simulator, and its commands print what the page shows."""

from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, blocks_of
from tests.docs.scenario import scenario
from tests.docs.stories import STORIES

PAGE = ROOT / "docs" / "stories.md"


def test_every_story_has_its_preparation() -> None:
    assert list(dict.fromkeys(block.section for block in blocks_of(PAGE))) == list(STORIES)


@pytest.mark.parametrize("story", STORIES)
async def test_the_commands_of_a_story_print_what_is_shown(
    story: str, database_url: str, programs: Path, tmp_path: Path
) -> None:
    async with scenario(database_url, tmp_path, programs, prepare=STORIES[story]) as running:
        for block in blocks_of(PAGE):
            if block.section == story:
                await running.run(block)
