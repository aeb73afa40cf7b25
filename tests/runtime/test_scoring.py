"""Scores of units: what is summed in parts is what is written in the docstrings."""

from __future__ import annotations

import numpy as np
import pytest

from edgeprune.runtime import scoring
from edgeprune.runtime._graph import Graph
from edgeprune.runtime._plan import find_sites
from edgeprune.runtime.repair import weight_matrix
from edgeprune.runtime.scoring import SiteStatistics, unit_scores
from edgeprune.runtime.statistics import Moments


@pytest.mark.parametrize("at_once", [1, 7, 10**6])
@pytest.mark.parametrize("criterion", ["variance", "wanda"])
@pytest.mark.parametrize("name", ["residual", "digits"])
def test_scores_are_sums_over_all_that_reads_a_unit(request, monkeypatch, name, criterion, at_once):
    monkeypatch.setattr(scoring, "_OUTPUTS_AT_ONCE", at_once)
    artifact = request.getfixturevalue(name)
    graph, rng = Graph(artifact), np.random.default_rng(0)
    wanted = {group.name: np.zeros(group.units) for group in artifact.info.prunable}
    statistics = {}
    for site in find_sites(graph):
        seen = rng.normal(size=(50, len(site.units))) + 1.0
        moments = Moments(len(site.units)), Moments(len(site.units))
        for one in moments:
            one.update(seen)
        statistics[site.tensor] = SiteStatistics(*moments)
        for operator in site.operators:
            weights = weight_matrix(artifact.tensors[operator.weight], operator)
            if criterion == "variance":
                score = seen.var(0) * (weights**2).sum((0, 2))
            else:
                score = np.sqrt((seen**2).mean(0)) * np.abs(weights).sum((0, 2))
            start = 0
            for group in site.groups:
                units = artifact.info.group_by_name[group].units
                for channel, unit in enumerate(site.units):
                    if start <= unit < start + units:
                        wanted[group][unit - start] += score[channel]
                start += units
    found = unit_scores(graph, statistics, criterion, 0)
    for group, score in wanted.items():
        np.testing.assert_allclose(found[group], score, rtol=1e-6)
