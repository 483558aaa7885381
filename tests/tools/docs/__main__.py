"""`make docs`: write the generated parts of the documents anew."""

from .blocks import DOCUMENTS, fill

for document in DOCUMENTS:
    text = document.read_text()
    if (filled := fill(text)) != text:
        document.write_text(filled)
        print(f"{document.name}: written anew")
