"""The parts of minimal office documents and an e-book: file extension -> part name -> content.

Office Open XML (ECMA-376) finds its parts by `[Content_Types].xml` and relationships; OpenDocument and EPUB
put their media type first, in a part named `mimetype`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_XML: Final = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_OOXML: Final = "http://schemas.openxmlformats.org"
_RELATIONSHIPS: Final = f"{_OOXML}/officeDocument/2006/relationships"
_OASIS: Final = "urn:oasis:names:tc:opendocument:xmlns"


def _ooxml(main: str, media_type: str, parts: Mapping[str, str]) -> dict[str, str]:
    """An Office Open XML package whose main part is `main`; `parts` are all parts, by name."""
    types = (
        f'{_XML}<Types xmlns="{_OOXML}/package/2006/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Default Extension="xml" ContentType="application/xml"/>'
        f'<Override PartName="/{main}" '
        f'ContentType="application/vnd.openxmlformats-officedocument.{media_type}.main+xml"/>'
        "</Types>"
    )
    return {"[Content_Types].xml": types, "_rels/.rels": _rels("officeDocument", main), **parts}


def _rels(kind: str, target: str) -> str:
    return (
        f'{_XML}<Relationships xmlns="{_OOXML}/package/2006/relationships">'
        f'<Relationship Id="rId1" Type="{_RELATIONSHIPS}/{kind}" Target="{target}"/></Relationships>'
    )


def _open_document(media_type: str, body: str) -> dict[str, str]:
    mimetype = f"application/vnd.oasis.opendocument.{media_type}"
    manifest = (
        f'{_XML}<manifest:manifest xmlns:manifest="{_OASIS}:manifest:1.0" manifest:version="1.3">'
        f'<manifest:file-entry manifest:full-path="/" manifest:media-type="{mimetype}"/>'
        '<manifest:file-entry manifest:full-path="content.xml" manifest:media-type="text/xml"/>'
        "</manifest:manifest>"
    )
    content = (
        f'{_XML}<office:document-content xmlns:office="{_OASIS}:office:1.0" xmlns:text="{_OASIS}:text:1.0" '
        f'xmlns:table="{_OASIS}:table:1.0" xmlns:draw="{_OASIS}:drawing:1.0" office:version="1.3">'
        f"<office:body>{body}</office:body></office:document-content>"
    )
    return {"mimetype": mimetype, "content.xml": content, "META-INF/manifest.xml": manifest}


_DOCX: Final = _ooxml(
    "word/document.xml",
    "wordprocessingml.document",
    {
        "word/document.xml": f'{_XML}<w:document xmlns:w="{_OOXML}/wordprocessingml/2006/main"><w:body>'
        + "".join(f"<w:p><w:r><w:t>High water at {hour:02d}:12.</w:t></w:r></w:p>" for hour in range(24))
        + "</w:body></w:document>"
    },
)

_XLSX: Final = _ooxml(
    "xl/workbook.xml",
    "spreadsheetml.sheet",
    {
        "xl/workbook.xml": f'{_XML}<workbook xmlns="{_OOXML}/spreadsheetml/2006/main" '
        f'xmlns:r="{_RELATIONSHIPS}"><sheets><sheet name="Levels" sheetId="1" r:id="rId1"/></sheets>'
        "</workbook>",
        "xl/_rels/workbook.xml.rels": _rels("worksheet", "worksheets/sheet1.xml"),
        "xl/worksheets/sheet1.xml": f'{_XML}<worksheet xmlns="{_OOXML}/spreadsheetml/2006/main"><sheetData>'
        + "".join(f'<row r="{row}"><c r="A{row}"><v>{row * 0.37:.2f}</v></c></row>' for row in range(1, 25))
        + "</sheetData></worksheet>",
    },
)

_PPTX: Final = _ooxml(
    "ppt/presentation.xml",
    "presentationml.presentation",
    {
        "ppt/presentation.xml": f'{_XML}<p:presentation xmlns:p="{_OOXML}/presentationml/2006/main" '
        f'xmlns:r="{_RELATIONSHIPS}"><p:sldIdLst><p:sldId id="256" r:id="rId1"/></p:sldIdLst>'
        "</p:presentation>",
        "ppt/_rels/presentation.xml.rels": _rels("slide", "slides/slide1.xml"),
        "ppt/slides/slide1.xml": f'{_XML}<p:sld xmlns:p="{_OOXML}/presentationml/2006/main" '
        f'xmlns:a="{_OOXML}/drawingml/2006/main"><p:cSld><p:spTree><p:sp><p:txBody><a:p><a:r>'
        "<a:t>The rule of twelfths</a:t></a:r></a:p></p:txBody></p:sp></p:spTree></p:cSld></p:sld>",
    },
)

_EPUB: Final = {
    "mimetype": "application/epub+zip",
    "META-INF/container.xml": f'{_XML}<container version="1.0" xmlns="{_OASIS}:container"><rootfiles>'
    '<rootfile full-path="OEBPS/content.opf" media-type="application/oebps-package+xml"/>'
    "</rootfiles></container>",
    "OEBPS/content.opf": f'{_XML}<package xmlns="http://www.idpf.org/2007/opf" version="3.0" '
    'unique-identifier="id"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/">'
    '<dc:identifier id="id">urn:example:tides</dc:identifier>'
    "<dc:title>Tides</dc:title><dc:language>en</dc:language></metadata>"
    '<manifest><item id="one" href="one.xhtml" media-type="application/xhtml+xml"/></manifest>'
    '<spine><itemref idref="one"/></spine></package>',
    "OEBPS/one.xhtml": f'{_XML}<html xmlns="http://www.w3.org/1999/xhtml"><head><title>Tides</title></head>'
    "<body><p>The year 1866 was marked by a strange event.</p></body></html>",
}

OFFICE_DOCUMENTS: Final[Mapping[str, Mapping[str, str]]] = {
    "docx": _DOCX,
    "xlsx": _XLSX,
    "pptx": _PPTX,
    "odt": _open_document("text", "<office:text><text:p>High water at 06:12.</text:p></office:text>"),
    "ods": _open_document(
        "spreadsheet",
        '<office:spreadsheet><table:table table:name="Levels"><table:table-row><table:table-cell>'
        "<text:p>11.4</text:p></table:table-cell></table:table-row></table:table></office:spreadsheet>",
    ),
    "odp": _open_document(
        "presentation",
        '<office:presentation><draw:page draw:name="one"><draw:frame><draw:text-box>'
        "<text:p>Tides</text:p></draw:text-box></draw:frame></draw:page></office:presentation>",
    ),
    "epub": _EPUB,
}
