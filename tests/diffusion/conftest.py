import pytest
import torch


class GaussianMixture:
    """Data whose best denoiser, E[x_0 given x_t], is known in closed form."""

    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    means = torch.tensor([[-1.2, 0.3], [1.1, 0.9], [0.8, -1.5]], dtype=torch.float64)
    covariances = torch.tensor(
        [[[0.09, 0.04], [0.04, 0.06]], [[0.04, -0.02], [-0.02, 0.10]], [[0.02, 0.0], [0.0, 0.03]]],
        dtype=torch.float64,
    )

    def posterior(self, x, alpha, sigma):
        """Component probabilities (n, 3) and E[x_0 given x_t] (n, 2) at x_t = alpha x_0 + sigma noise."""
        covariances = alpha**2 * self.covariances + sigma**2 * torch.eye(2, dtype=torch.float64)
        precisions = torch.linalg.inv(covariances)  # (3, 2, 2)
        centred = x - alpha * self.means[:, None]  # (3, n, 2)
        whitened = centred @ precisions
        log_density = -0.5 * ((centred * whitened).sum(-1) + torch.logdet(covariances)[:, None])
        probabilities = (self.weights.log()[:, None] + log_density).softmax(dim=0)
        means = self.means[:, None] + alpha * whitened @ self.covariances
        return probabilities.T, (probabilities[..., None] * means).sum(0)

    def denoiser(self, schedule):
        def denoise(x, t):
            alpha, sigma = schedule.coefficients([int(t[0])])
            return self.posterior(x.double(), alpha, sigma)[1].to(x.dtype)

        return denoise

    def sample(self, n, seed):
        generator = torch.Generator().manual_seed(seed)
        component = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, 2, 1, generator=generator, dtype=torch.float64)
        return self.means[component] + (torch.linalg.cholesky(self.covariances)[component] @ noise)[..., 0]

    def errors(self, x):
        """Deviation of a sample's weights, means and covariances from the truth, in standard errors."""
        component = self.posterior(x, 1.0, 1e-3)[0].argmax(1)
        deviations = []
        for k, (weight, mean, covariance) in enumerate(zip(self.weights, self.means, self.covariances, strict=True)):
            members = x[component == k]
            n = len(members)
            deviations.append((n / len(x) - weight) / (weight * (1 - weight) / len(x)).sqrt())
            variance = covariance.diagonal()
            deviations.extend((members.mean(0) - mean) / (variance / n).sqrt())
            standard_error = ((variance[:, None] * variance + covariance**2) / n).sqrt()
            deviations.extend(((members.T.cov() - covariance) / standard_error).flatten())
        return torch.stack(deviations).abs()


@pytest.fixture(scope="session")
def mixture():
    return GaussianMixture()


@pytest.fixture
def noise():
    """Standard normal starting points, (n, 2), float64."""
    return lambda n, seed=0: torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
