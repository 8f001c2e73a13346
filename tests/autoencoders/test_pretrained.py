import pickle

import pytest
import torch

from scdiffusion.autoencoders import SCimilarityAutoencoder, read_pretrained

GENES = [f"G{i}" for i in range(40)]


def write(path, autoencoder, genes=GENES):
    """A directory as SCimilarity writes it."""
    path.mkdir(exist_ok=True)
    torch.save({"state_dict": autoencoder.encoder.state_dict()}, path / "encoder.ckpt")
    torch.save({"state_dict": autoencoder.decoder.state_dict()}, path / "decoder.ckpt")
    (path / "gene_order.tsv").write_text("\n".join(genes) + "\n")


@pytest.fixture
def teacher():
    """Weights and batch statistics that are not those of a new autoencoder."""
    torch.manual_seed(1)
    autoencoder = SCimilarityAutoencoder(40, 4, (16, 8))
    for _ in range(5):
        autoencoder.loss(x := torch.poisson(torch.full((64, 40), 2.0)), autoencoder.encode(x)[0])
    return autoencoder.eval()


@pytest.fixture
def directory(tmp_path, teacher):
    write(tmp_path / "model", teacher)
    return tmp_path / "model"


def new(n_genes=40, **kwargs):
    torch.manual_seed(2)
    return SCimilarityAutoencoder(n_genes, 4, (16, 8), **kwargs).eval()


def test_sizes_are_read_from_the_weights(directory):
    weights = read_pretrained(directory)
    assert weights.genes == GENES
    assert weights.settings == {"n_hidden": [16, 8], "n_latent": 4}


def test_all_genes_in_another_order_give_the_same_latents_and_cells(directory, teacher):
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    student = new()
    assert student.adopt(read_pretrained(directory), [GENES[i] for i in order]) == 40
    x = torch.poisson(torch.full((10, 40), 2.0))
    latents = teacher.encode(x)[0]
    torch.testing.assert_close(student.encode(x[:, order])[0], latents)
    torch.testing.assert_close(student.decoder(latents), teacher.decoder(latents)[:, order])


def test_genes_keep_their_own_weights_and_new_ones_have_new_weights(directory, teacher):
    student, untouched = new(30), new(30)
    genes = [*GENES[10:35], *(f"new{i}" for i in range(5))]
    assert student.adopt(read_pretrained(directory), genes) == 25
    first = [autoencoder.encoder.network[0][1].weight for autoencoder in (student, teacher, untouched)]
    assert torch.equal(first[0][:, :25], first[1][:, 10:35]) and torch.equal(first[0][:, 25:], first[2][:, 25:])
    for name in ("weight", "bias"):
        last = [getattr(autoencoder.decoder.network[-1], name) for autoencoder in (student, teacher, untouched)]
        assert torch.equal(last[0][:25], last[1][10:35]) and torch.equal(last[0][25:], last[2][25:])
    for name, tensor in teacher.encoder.state_dict().items():
        if name != "network.0.1.weight":
            assert torch.equal(student.encoder.state_dict()[name], tensor), name


def test_no_shared_genes(directory):
    with pytest.raises(ValueError, match="begin with 'G0', 'G1', 'G2', those of adata with 'ENSG0'"):
        new().adopt(read_pretrained(directory), [f"ENSG{i}" for i in range(40)])


@pytest.mark.parametrize("name", ["encoder.ckpt", "decoder.ckpt", "gene_order.tsv"])
def test_incomplete_directory(directory, name):
    (directory / name).unlink()
    with pytest.raises(ValueError, match=f"not a SCimilarity model directory: {name} missing"):
        read_pretrained(directory)


def test_no_directory(tmp_path):
    with pytest.raises(ValueError, match=r"encoder\.ckpt, decoder\.ckpt, gene_order\.tsv missing"):
        read_pretrained(tmp_path / "nowhere")


class Code:
    def __reduce__(self):
        return (print, ("code from a checkpoint was run",))


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", pickle.dumps(Code(), protocol=2)])
def test_no_checkpoint(directory, content, capsys):
    (directory / "encoder.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=r"encoder\.ckpt cannot be read as a checkpoint"):
        read_pretrained(directory)
    assert "run" not in capsys.readouterr().out


def test_checkpoint_with_code_is_not_run(directory, capsys):
    torch.save({"state_dict": Code()}, directory / "encoder.ckpt")
    with pytest.raises(ValueError, match="cannot be read as a checkpoint of tensors"):
        read_pretrained(directory)
    assert "run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weights": {}}, "holds no 'state_dict'"),
        ({"state_dict": {}}, "SCimilarity's layers"),
        ({"state_dict": torch.nn.Linear(40, 4).state_dict()}, "SCimilarity's layers"),
    ],
)
def test_another_kind_of_checkpoint(directory, content, message):
    torch.save(content, directory / "encoder.ckpt")
    with pytest.raises(ValueError, match=message):
        read_pretrained(directory)


def test_files_of_different_models(directory):
    other = SCimilarityAutoencoder(40, 4, (8, 8))
    torch.save({"state_dict": other.decoder.state_dict()}, directory / "decoder.ckpt")
    with pytest.raises(ValueError, match="does not mirror the encoder"):
        read_pretrained(directory)


def test_genes_of_another_model(directory):
    (directory / "gene_order.tsv").write_text("\n".join(GENES[:30]))
    with pytest.raises(ValueError, match="names 30 genes, but the encoder reads 40"):
        read_pretrained(directory)
