from __future__ import annotations

import torch
import torch.nn.functional as F

from indiseek.train._pipeline import _Bridge


def _codes(n: int = 400, d: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    code = F.normalize(torch.randn(n, d, generator=generator), dim=-1)
    rotation = torch.linalg.qr(torch.randn(d, d, generator=generator))[0]
    return code, code @ rotation


def test_a_rotation_between_codes_is_found():
    first, second = _codes()
    bridge = _Bridge()
    bridge.fit((first[:300], second[:300]))
    torch.testing.assert_close(bridge(0, first[300:])[1], second[300:], atol=1e-2, rtol=0)
    torch.testing.assert_close(bridge(1, second[300:])[0], first[300:], atol=1e-2, rtol=0)


def test_the_given_code_is_kept():
    first, second = _codes()
    bridge = _Bridge()
    bridge.fit((first, second))
    for i, code in enumerate((first, second)):
        torch.testing.assert_close(bridge(i, code)[i], code, rtol=0, atol=0)


def test_a_code_that_cannot_be_predicted_is_given_its_mean():
    first, _ = _codes()
    second = F.normalize(torch.randn(400, 4, generator=torch.Generator().manual_seed(5)) + 1, dim=-1)
    bridge = _Bridge()
    bridge.fit((first, second))
    torch.testing.assert_close(bridge(0, first)[1], second.mean(0).expand(400, 4), atol=0.2, rtol=0)


def test_the_maps_are_part_of_the_state():
    first, second = _codes()
    bridge, copy = _Bridge(), _Bridge()
    bridge.fit((first, second))
    copy.allocate(bridge.maps.shape)
    copy.load_state_dict(bridge.state_dict())
    torch.testing.assert_close(copy(0, first), bridge(0, first), rtol=0, atol=0)
