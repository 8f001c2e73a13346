"""The command line: each command is one call of the public API."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

_DEMO_METRICS = [
    "library_size",
    "n_genes",
    "gene_mean_spearman",
    "gene_correlation_error",
    "energy_distance",
    "coverage",
    "knn_auc",
    "random_forest_auc",
    "nearest_training_ratio",
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; errors of the user's input are printed without a traceback."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, TypeError, OSError) as error:
        print(f"scdiffusion {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"scdiffusion {options.command}: interrupted", file=sys.stderr)
        return 130
    return 0


def _train(options: argparse.Namespace) -> None:
    import anndata as ad

    import scdiffusion as scd

    if Path(options.model).exists() and not options.overwrite:
        raise FileExistsError(f"{options.model} already exists. Choose another directory, or pass --overwrite.")
    adata = ad.read_h5ad(options.data)
    scd.SCDiffusion.setup_anndata(
        adata,
        layer=options.layer,
        condition_keys=options.condition,
        batch_key=options.batch_key,
        continuous_condition_keys=options.continuous_condition,
    )
    model = scd.SCDiffusion(adata, options.preset, rng=options.seed)
    model.train(options.max_epochs, rng=options.seed, checkpoint_dir=options.checkpoint_dir)
    if options.classifiers and not model.classifiers_:  # preset scdiffusion has trained them
        model.train_classifier(max_epochs=options.max_epochs, rng=options.seed, checkpoint_dir=options.checkpoint_dir)
    model.save(options.model, overwrite=options.overwrite)
    print(f"Saved the model in {options.model}")


def _generate(options: argparse.Namespace) -> None:
    import scdiffusion as scd

    conditions: str | dict[str, str] | None = "observed" if options.observed else None
    if options.condition:
        conditions = dict(options.condition)
    model = scd.SCDiffusion.load(options.model)
    cells = model.generate(
        options.n_cells,
        conditions,
        guidance=options.guidance,
        guidance_scale=options.guidance_scale,
        sampler=options.sampler,
        n_steps=options.n_steps,
        library_size=options.library_size,
        rng=options.seed,
        output=options.output,
        progress=True,
    )
    print(f"Wrote {cells.n_obs} cells to {options.output}")


def _evaluate(options: argparse.Namespace) -> None:
    import anndata as ad

    import scdiffusion as scd

    for path in filter(None, (options.output, options.report)):
        if not Path(path).parent.is_dir():
            raise FileNotFoundError(f"There is no folder {str(Path(path).parent)!r} to write {path!r} to.")
    real, generated = ad.read_h5ad(options.real), ad.read_h5ad(options.generated)
    train = ad.read_h5ad(options.train) if options.train else None
    shared = {"groupby": options.groupby, "layer": options.layer, "rng": options.seed}
    table = scd.tl.evaluate(real, generated, train=train, donor_key=options.donor, **shared)
    print(table.to_string(index=False, float_format="{:.3f}".format))
    if options.output:
        table.to_csv(options.output, index=False)
    if options.report:
        scd.pl.report(table, real, generated, options.report, **shared)
        print(f"Wrote {options.report}")


def _demo(options: argparse.Namespace) -> None:
    import numpy as np

    import scdiffusion as scd

    folder = Path(options.folder)
    folder.mkdir(parents=True, exist_ok=True)
    adata = scd.datasets.pbmc68k_reduced()
    held_out = np.random.default_rng(0).permutation(adata.n_obs) < adata.n_obs // 4
    train, test = adata[~held_out].copy(), adata[held_out].copy()
    scd.SCDiffusion.setup_anndata(train, layer="counts", condition_keys="bulk_labels")
    model = scd.SCDiffusion(train)
    model.train()
    cells = model.generate(obs_conditions="observed", rng=0, progress=True)
    _write(cells, folder / "generated.h5ad")
    table = scd.tl.evaluate(test, cells, train=train, layer="counts", metrics=_DEMO_METRICS, n_splits=3)
    table.to_csv(folder / "evaluation.csv", index=False)
    # PCA and not UMAP, whose first picture takes longer than all the rest.
    figure = scd.pl.overlay(train, cells, layer="counts", color="bulk_labels", basis="pca", return_fig=True)
    figure.savefig(folder / "demo.png", dpi=150, bbox_inches="tight")
    print(table[["metric", "generated", "floor", "baseline", "verdict"]].to_string(index=False, float_format="%.3f"))
    print(f"Wrote generated.h5ad, evaluation.csv and demo.png to {folder}/")


def _write(cells, path: str | Path) -> None:
    """Write an h5ad file aside and move it into place, so that a file of that name is always whole."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        cells.write_h5ad(temporary, compression="gzip")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    print(f"Wrote {cells.n_obs} cells to {path}")


def _pair(text: str) -> tuple[str, str]:
    key, separator, category = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"write a condition as KEY=CATEGORY, e.g. cell_type='B cells'; got {text!r}")
    return key, category


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scdiffusion", description="Generate single cells that were never sequenced.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run, summary: str, example: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=run)
        return sub

    train = command(
        "train", _train, "Train a model on the counts of an h5ad file.",
        "scdiffusion train cells.h5ad model/ --layer counts -c cell_type -c donor",
    )  # fmt: skip
    train.add_argument("data", help="h5ad file with raw counts")
    train.add_argument("model", help="directory to save the model in")
    train.add_argument("--layer", help="layer with the counts (default: X)")
    train.add_argument(
        "-c", "--condition", action="append", metavar="KEY", help="obs column to generate by; repeatable"
    )
    train.add_argument(
        "--continuous-condition", action="append", metavar="KEY", help="numeric obs column to generate by; repeatable"
    )
    train.add_argument("--batch-key", metavar="KEY", help="obs column of a nuisance batch")
    train.add_argument("--preset", help="scdiffusion or scld, the papers' own models (default: ours)")
    train.add_argument("--max-epochs", type=int, help="most epochs of each stage")
    train.add_argument("--classifiers", action="store_true", help="train classifiers too, for --guidance classifier")
    train.add_argument("--checkpoint-dir", help="where to keep checkpoints, and to resume from")
    train.add_argument("--overwrite", action="store_true", help="replace an existing model")
    train.add_argument("--seed", type=int, default=0)

    generate = command(
        "generate", _generate, "Generate cells with a saved model.",
        "scdiffusion generate model/ -n 500 -c cell_type=\"B cells\" -o out.h5ad",
    )  # fmt: skip
    generate.add_argument("model", help="directory of a saved model")
    generate.add_argument("-n", "--n-cells", type=int, help="number of cells (default: as many as were trained on)")
    generate.add_argument(
        "-c",
        "--condition",
        action="append",
        type=_pair,
        metavar="KEY=CATEGORY",
        help="what the cells should be; repeatable",
    )
    generate.add_argument("--observed", action="store_true", help="conditions in the proportions of the training data")
    generate.add_argument(
        "-o", "--output", required=True, help="h5ad or zarr file to write; an interrupted command, repeated, goes on"
    )
    generate.add_argument("--guidance", choices=["classifier_free", "classifier", "none"], help="default: the preset's")
    generate.add_argument("--guidance-scale", type=float)
    generate.add_argument("--sampler", help="dpmpp_2m, ddim, ddpm or euler (default: the preset's)")
    generate.add_argument("--n-steps", type=int)
    generate.add_argument("--library-size", type=float, help="expected counts per cell (default: drawn with the cell)")
    generate.add_argument("--seed", type=int)

    evaluate = command(
        "evaluate", _evaluate, "Compare generated with real cells, beside the real-vs-real floor.",
        "scdiffusion evaluate real.h5ad generated.h5ad --groupby cell_type --report evaluation.html",
    )  # fmt: skip
    evaluate.add_argument("real", help="h5ad file of real cells that the model was not trained on")
    evaluate.add_argument("generated", help="h5ad file of generated cells, from any tool")
    evaluate.add_argument("--train", help="h5ad file of the training cells")
    evaluate.add_argument("--groupby", help="obs column of cell types")
    evaluate.add_argument("--donor", help="obs column of donors, none of them in both real and training cells")
    evaluate.add_argument("--layer", help="layer with the expression (default: X)")
    evaluate.add_argument("-o", "--output", help="csv file to write the table to")
    evaluate.add_argument("--report", metavar="HTML", help="page to write, with the table and the figures")
    evaluate.add_argument("--seed", type=int, default=0)

    demo = command(
        "demo", _demo, "Train, generate, evaluate and draw on the embedded blood cells.", "scdiffusion demo demo_output"
    )
    demo.add_argument(
        "folder", nargs="?", default="scdiffusion_demo", help="where to write (default: scdiffusion_demo)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
