"""`make docs`: regenerate parts of the documents."""

from .blocks import DOCUMENTS, fill

for document in DOCUMENTS:
    text = document.read_text()
    if (filled := fill(text)) != text:
        document.write_text(filled)
        print(f"{document.name}: regenerated")
