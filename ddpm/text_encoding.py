"""The encoding of text files that people and tools write."""

import codecs


def decode_text(content: bytes) -> str:
    """Return the text of a file, in UTF-16 if it begins with the byte order mark of Excel and PowerShell, else UTF-8.

    Raises:
        UnicodeDecodeError: if it is not valid in this encoding.
    """
    is_utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if is_utf_16 else "utf-8-sig")
