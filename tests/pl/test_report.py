"""A report is one valid page that holds everything it shows."""

import base64
import io
from html.parser import HTMLParser

import pytest
from PIL import Image

from scdiffusion import pl, tl
from scdiffusion.metrics import log_normalise
from scdiffusion.pl._metric_words import WORDS
from scdiffusion.tl._metric_table import METRICS

VOID = {"meta", "img", "br"}
ALWAYS = [
    *("summary", "how-to-read-this-page", "score-card", "real-and-generated-cells"),
    *("quantiles-of-genes", "mean-and-variance-of-counts"),
]  # fmt: skip
OF_TYPES = ["marker-genes", "differences-between-types", "types-asked-for-and-seen"]


class Page(HTMLParser):
    """Collects sections, links, images and text of a page whose tags are all closed."""

    def __init__(self, path):
        super().__init__()
        self.open, self.sections, self.links, self.images, self.text = [], [], [], {}, ""
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        assert tag not in {"script", "link", "iframe"}
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self.sections.append(attrs["id"])
        if "href" in attrs:
            self.links.append(attrs["href"])
        if "src" in attrs:
            kind, _, data = attrs["src"].partition(",")
            assert (tag, kind) == ("img", "data:image/png;base64")
            self.images[attrs["alt"]] = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
            self.images[attrs["alt"]].load()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def write(tmp_path, real, generated, groupby=None, layer="counts", **kwargs):
    metrics = ["library_size", "gene_mean_spearman", "energy_distance"] if layer else ["energy_distance"]
    table = tl.evaluate(real, generated, groupby=groupby, layer=layer, metrics=metrics, progress=False)
    pl.report(table, real, generated, tmp_path / "r.html", groupby=groupby, layer=layer, basis="pca", **kwargs)
    return Page(tmp_path / "r.html")


def test_page_holds_all_sections_and_pictures_and_asks_for_nothing_else(tmp_path, real, generated):
    page = write(tmp_path, real, generated, "cell_type")
    assert page.sections == ALWAYS + OF_TYPES
    assert page.links == [f"#{section}" for section in page.sections]
    assert set(page.images) == {
        *("Score card", "Overlay", "Quantile plots", "Variance against mean"),
        *("T", "B", "NK", "Log fold changes", "Confusion"),
    }  # fmt: skip
    assert all(min(image.size) > 200 for image in page.images.values())
    assert "150 real and 120 generated cells, 60 genes" in page.text
    assert "energy distance" in page.text and WORDS["energy_distance"] in page.text
    assert "not drawn" not in page.text
    source = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "://" not in source and "url(" not in source and "@import" not in source


def test_page_without_types_is_the_same_each_time(tmp_path, real, generated):
    page = write(tmp_path, real, generated, genes=["GENE3", "GENE7"])
    assert page.sections == ALWAYS
    assert len(page.images) == 4
    first = (tmp_path / "r.html").read_bytes()
    write(tmp_path, real, generated, genes=["GENE3", "GENE7"])
    assert (tmp_path / "r.html").read_bytes() == first


def test_page_says_what_cannot_be_drawn(tmp_path, real, generated):
    for side, counts in ((real, real.layers["counts"]), (generated, generated.X)):
        side.X = log_normalise(counts)
    page = write(tmp_path, real, generated, layer=None)
    assert "Variance against mean not drawn" in page.text and "this plot is of counts" in page.text
    assert "All sides are log-normalised" in page.text  # a note of the evaluation
    assert "Variance against mean" not in page.images


@pytest.mark.filterwarnings("ignore:Left out")
@pytest.mark.parametrize(
    ("types", "reason"),
    [
        (
            {"real": "T", "generated": "T"},
            "Marker genes not drawn: Fold changes against the rest need at least two types",
        ),
        ({"generated": "another"}, "Marker genes not drawn: No category of 'cell_type' has 3 cell(s) on both sides"),
    ],
)
def test_page_without_violins_says_why(tmp_path, real, generated, types, reason):
    for name, side in (("real", real), ("generated", generated)):
        if name in types:
            side.obs["cell_type"] = types[name]
    page = write(tmp_path, real, generated, "cell_type")
    assert page.sections == ALWAYS + OF_TYPES
    assert reason in page.text
    assert {"Score card", "Overlay", "Variance against mean"} <= set(page.images)


def test_names_are_text_not_markup(tmp_path, real, generated):
    for side in (real, generated):
        side.obs["cell_type"] = side.obs["cell_type"].cat.rename_categories({"T": "<b>T & co"})
    page = write(tmp_path, real, generated, "cell_type")
    assert "<b>T & co" in page.text


def test_table_has_each_verdict_and_the_worst_by_name(tmp_path, real, generated):
    table = tl.evaluate(real, generated, groupby="cell_type", layer="counts", metrics="n_genes", progress=False)
    table.loc[0, "verdict"] = "worse than baseline"
    table.loc[1, "verdict"] = "missing in generated"
    pl.report(table, real, generated, tmp_path / "r.html", groupby="cell_type", layer="counts", basis="pca")
    text = Page(tmp_path / "r.html").text
    assert "Worse than baseline: n genes." in text
    assert "missing in generated" in text


def test_every_metric_is_explained():
    assert set(WORDS) == set(METRICS)


def test_bad_input_before_anything_is_drawn(tmp_path, real, generated):
    table = tl.evaluate(real, generated, layer="counts", metrics="n_genes", progress=False)
    path = tmp_path / "r.html"
    with pytest.raises(FileNotFoundError, match="There is no folder .*nowhere.* to write 'r.html' to"):
        pl.report(table, real, generated, tmp_path / "nowhere" / "r.html", layer="counts")
    with pytest.raises(ValueError, match="scd.tl.evaluate"):
        pl.report(table.drop(columns="floor"), real, generated, path, layer="counts")
    with pytest.raises(ValueError, match="Did you mean 'cell_type'"):
        pl.report(table, real, generated, path, groupby="celltype", layer="counts")
    with pytest.raises(ValueError, match="Gene 'gene1' .* Did you mean 'GENE1"):
        pl.report(table, real, generated, path, genes="gene1", layer="counts")
    with pytest.raises(ValueError, match="Unknown basis 'UMAP'"):
        pl.report(table, real, generated, path, basis="UMAP", layer="counts")
    assert not path.exists()
