"""Numbers of things in messages."""


def format_count(count: int, noun: str) -> str:
    """Return a number with its noun, such as `1 image`, `1,797 images` or `10 classes`."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending}"
