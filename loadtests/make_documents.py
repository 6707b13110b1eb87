"""Makes the sample documents in ``loadtests/documents``: five formats, each in English and Chinese.

Run ``python -m loadtests.make_documents``. The same script makes the same bytes every time.
"""

import html
import io
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from docx import Document
from reportlab import rl_config
from reportlab.lib.styles import ParagraphStyle
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.platypus import Paragraph, SimpleDocTemplate

DOCUMENTS = Path(__file__).with_name("documents")
CHINESE_FONT = "STSong-Light"
FIXED_DATE = (2026, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Sample:
    """A document's text, and the language it is in."""

    language: str
    title: str
    paragraphs: tuple[str, ...]


TIDES = Sample(
    "en",
    "Why the sea rises and falls",
    (
        "Tides are caused by the gravity of the Moon and, to a lesser degree, of the Sun. The Moon pulls the water on "
        "the near side of the Earth more strongly than the Earth itself, and the water on the far side less strongly.",
        "Spring tides come at new moon and full moon, when the Sun and the Moon pull along one line. High water is "
        "then higher than usual and low water is lower. Neap tides come a week later and are the smallest.",
        "The Bay of Fundy in Canada has the largest tidal range in the world, about sixteen metres.",
    ),
)
TEA = Sample(
    "zh",
    "中国茶的种类",
    (
        "中国茶按照发酵程度分为绿茶、白茶、黄茶、乌龙茶、红茶和黑茶六大类。绿茶不发酵，红茶完全发酵。",
        "西湖龙井是最有名的绿茶，产于杭州西湖周围的山上。清明节以前采摘的龙井叫明前茶，价格最高。",
        "泡绿茶的水温应当在八十度左右，水太热会把嫩叶烫熟，茶汤变黄，味道发苦。",
    ),
)
BEES = Sample(
    "en",
    "A beekeeper's year",
    (
        "A beekeeper opens the hive for the first time on a warm day in March, to see whether the queen has survived "
        "the winter and whether the colony still has honey in the combs.",
        "In May a strong colony may swarm: the old queen leaves with half of the worker bees. Cutting out the queen "
        "cells every nine days prevents a swarm.",
        "Honey is harvested in July with an extractor, a drum that spins it out of the combs. After the harvest the "
        "bees are fed with sugar syrup and treated against the varroa mite.",
    ),
)
PANDA = Sample(
    "zh",
    "大熊猫",
    (
        "大熊猫生活在四川、陕西和甘肃的高山竹林里，是中国特有的动物。",
        "大熊猫每天要吃十几公斤竹子，因为竹子的营养很少。它们一天有十个小时以上都在吃东西。",
        "刚出生的熊猫宝宝只有一百克左右，大约是妈妈体重的千分之一。小熊猫宝宝要跟着妈妈生活一年半。",
    ),
)
VOLCANOES = Sample(
    "en",
    "How volcanoes erupt",
    (
        "A volcano erupts when magma rises through the crust. Gas dissolved in the magma forms bubbles as the pressure "
        "falls, and drives the lava out of the crater.",
        "Magma that is rich in silica is thick and traps its gas, so it explodes into ash and pumice. Basalt is thin "
        "and flows quietly, as in Hawaii.",
        "The eruption of Vesuvius in the year 79 buried the Roman town of Pompeii under metres of volcanic ash.",
    ),
)
RAILWAY = Sample(
    "zh",
    "中国高速铁路",
    (
        "京沪高速铁路连接北京和上海，全长一千三百一十八公里，二〇一一年六月开始运营。",
        "复兴号动车组列车的最高运营速度是每小时三百五十公里，从北京到上海最快只要四个多小时。",
        "高铁车票可以在网上购买，乘客进站时刷身份证就能检票上车。",
    ),
)
BREAD = Sample(
    "en",
    "Baking sourdough bread",
    (
        "A sourdough starter is flour and water in which wild yeast and lactic acid bacteria live. Feed the starter "
        "with fresh flour the evening before you bake.",
        "Knead the dough, let it rise for five hours and fold it every half hour. Then shape the loaf and leave it in "
        "the fridge overnight.",
        "Bake the loaf in a hot cast-iron pot at 240 degrees: twenty minutes with the lid on for the steam, and "
        "twenty minutes without it for the crust.",
    ),
)
FESTIVAL = Sample(
    "zh",
    "中秋节",
    (
        "中秋节在农历八月十五，这一天的月亮最圆。家人团聚，一起赏月、吃月饼。",
        "月饼的馅有莲蓉、豆沙、五仁和蛋黄。广东的月饼皮薄，苏州的月饼是酥皮的。",
        "传说嫦娥吃了仙药飞到月宫，和玉兔住在一起，所以人们在中秋节晚上想念她。",
    ),
)
LIGHTHOUSE = Sample(
    "en",
    "The lighthouse and its lens",
    (
        "A lighthouse warns ships of rocks and shoals. Its lamp stands in the lantern room at the top of the tower, "
        "and every lighthouse has a flash pattern of its own by which sailors recognise it.",
        "In 1822 Augustin Fresnel built a lens of concentric glass rings. The Fresnel lens made the beam visible for "
        "more than twenty nautical miles, where the old mirrors had reached eight.",
        "The keeper wound up the clockwork that turned the lens, and trimmed the wick of the oil lamp every four "
        "hours. Today nearly all lighthouses are automatic.",
    ),
)
WALL = Sample(
    "zh",
    "万里长城",
    (
        "长城是中国古代的防御工事，用来阻挡北方游牧民族的骑兵。秦始皇统一六国以后，把各国的城墙连接起来。",
        "现在看到的长城大部分是明朝修建的，东起山海关，西到嘉峪关。城墙上每隔一段就有一座烽火台，用烟火传递军情。",
        "八达岭长城离北京市区大约七十公里，是游客最多的一段。",
    ),
)


def pdf(sample: Sample) -> bytes:
    """Return a sample as PDF; Chinese in a font that every reader brings along."""
    rl_config.invariant = 1
    font = "Helvetica"
    if sample.language == "zh":
        pdfmetrics.registerFont(UnicodeCIDFont(CHINESE_FONT))
        font = CHINESE_FONT
    wrap = "CJK" if sample.language == "zh" else None
    title = ParagraphStyle("title", fontName=font, fontSize=18, leading=28)
    body = ParagraphStyle("body", fontName=font, fontSize=11, leading=17, spaceAfter=9, wordWrap=wrap)
    file = io.BytesIO()
    SimpleDocTemplate(file, title=sample.title, invariant=1).build(
        [Paragraph(sample.title, title), *(Paragraph(text, body) for text in sample.paragraphs)]
    )
    return file.getvalue()


def docx(sample: Sample) -> bytes:
    """Return a sample as a Word document, its last paragraph in a table."""
    document = Document()
    document.add_heading(sample.title, level=1)
    *first, last = sample.paragraphs
    for text in first:
        document.add_paragraph(text)
    document.add_table(rows=1, cols=1).cell(0, 0).text = last
    file = io.BytesIO()
    document.save(file)
    return _with_fixed_dates(file)


def _with_fixed_dates(archive: io.BytesIO) -> bytes:
    """Return a zip with the same parts, none of which says when it was made."""
    fixed = io.BytesIO()
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(fixed, "w") as target:
        for name in source.namelist():
            part = zipfile.ZipInfo(name, FIXED_DATE)
            target.writestr(part, source.read(name), zipfile.ZIP_DEFLATED)
    return fixed.getvalue()


def page(sample: Sample) -> bytes:
    """Return a sample as an HTML page with a script and a style that are not its text."""
    paragraphs = "\n".join(f"<p>{html.escape(text)}</p>" for text in sample.paragraphs)
    return f"""<!doctype html>
<html lang="{sample.language}">
<head><meta charset="utf-8"><title>{html.escape(sample.title)}</title><style>p {{ margin: 1em }}</style></head>
<body>
<h1>{html.escape(sample.title)}</h1>
{paragraphs}
<script>console.log("not text")</script>
</body>
</html>
""".encode()


def markdown(sample: Sample) -> bytes:
    """Return a sample as Markdown."""
    return "\n\n".join([f"# {sample.title}", *sample.paragraphs, ""]).encode()


def plain(sample: Sample, encoding: str) -> bytes:
    """Return a sample as plain text in an encoding."""
    return "\n\n".join([sample.title, *sample.paragraphs, ""]).encode(encoding)


def make() -> dict[str, bytes]:
    """Return every sample document's name and content."""
    return {
        "tides.pdf": pdf(TIDES),
        "tea.pdf": pdf(TEA),
        "bees.docx": docx(BEES),
        "panda.docx": docx(PANDA),
        "volcanoes.html": page(VOLCANOES),
        "railway.html": page(RAILWAY),
        "bread.md": markdown(BREAD),
        "festival.md": markdown(FESTIVAL),
        "lighthouse.txt": plain(LIGHTHOUSE, "utf-8"),
        "wall.txt": plain(WALL, "gb18030"),
    }


def main(directory: Path = DOCUMENTS) -> None:
    """Write the sample documents."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in make().items():
        (directory / name).write_bytes(content)


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
