"""Pages of HTML as tests look at them."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """The elements of a page, and the text that a reader sees."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._unseen = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._unseen = tag == "style"

    def handle_data(self, data: str) -> None:
        self.text += "" if self._unseen else data
