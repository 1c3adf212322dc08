"""What methods are to be cited for."""

import re
from collections.abc import Sequence

__all__ = ["METHODS", "PACKAGE", "one_of_each_work"]

PACKAGE = "particlegen, MIT licence; see CITATION.cff"

METHODS = {
    "interpolant": "L. Grenioux, L. Galliano, L. Berthier, G. Biroli, M. Gabrié, Boltzmann generators for amorphous "
    "particle systems, arXiv:2512.16607 (2025)",
    "flow matching": "R. T. Q. Chen, Y. Lipman, Flow matching on general geometries, arXiv:2302.03660 (2023)",
    "hollow": "J. Gloy, S. Olsson, HollowFlow, arXiv:2510.21542 (2025)",
    "hutchinson": "M. F. Hutchinson, Commun. Stat. Simul. Comput. 19, 433 (1990)",
    "denoiser": "M. S. Albergo, N. M. Boffi, E. Vanden-Eijnden, Stochastic interpolants, arXiv:2303.08797 (2023)",
    "path weights": "C. Jarzynski, Phys. Rev. Lett. 78, 2690 (1997)",
    "muon": "K. Jordan et al., Muon: an optimizer for hidden layers in neural networks (2024)",
    "hmc": "S. Duane, A. D. Kennedy, B. J. Pendleton, D. Roweth, Phys. Lett. B 195, 216 (1987)",
    "adaptive flow": "M. Gabrié, G. M. Rotskoff, E. Vanden-Eijnden, Proc. Natl. Acad. Sci. 119, e2109420119 (2022)",
    "bar": "C. H. Bennett, J. Comput. Phys. 22, 245 (1976)",
    "coupling": "C. Durkan, A. Bekasov, I. Murray, G. Papamakarios, Neural spline flows, arXiv:1906.04032 (2019)",
    "eckart": "C. Eckart, Phys. Rev. 47, 552 (1935)",
    "isir": "S. Samsonov et al., Local-global MCMC kernels: the best of both worlds, arXiv:2111.02702 (2021)",
    "tempering": "K. Hukushima, K. Nemoto, J. Phys. Soc. Jpn. 65, 1604 (1996)",
    "swap": "A. Ninarello, L. Berthier, D. Coslovich, Phys. Rev. X 7, 021039 (2017)",
    "r_hat": "A. Vehtari, A. Gelman, D. Simpson, B. Carpenter, P.-C. Bürkner, Bayesian Anal. 16, 667 (2021)",
    "pareto_k": "A. Vehtari, D. Simpson, A. Gelman, Y. Yao, J. Gabry, J. Mach. Learn. Res. 25, 1 (2024)",
    "tddft": "M. E. Casida, in Recent Advances in Density Functional Methods I, World Scientific (1995), p. 155",
    "nuclear ensemble": "R. Crespo-Otero, M. Barbatti, Theor. Chem. Acc. 131, 1237 (2012)",
    "verlet": "W. C. Swope, H. C. Andersen, P. H. Berens, K. R. Wilson, J. Chem. Phys. 76, 637 (1982)",
    "velocity spectrum": "J. M. Dickey, A. Paskin, Phys. Rev. 188, 1407 (1969)",
    "freud": "V. Ramasubramani et al., Comput. Phys. Commun. 254, 107275 (2020)",
}


def one_of_each_work(texts: Sequence[str]) -> list[str]:
    """Citations, each work once, order kept; two texts with one arXiv number are one work."""
    by_work = {(match[0] if (match := re.search(r"arXiv:[\d.]+\d", text)) else text): text for text in reversed(texts)}
    return list(reversed(by_work.values()))
