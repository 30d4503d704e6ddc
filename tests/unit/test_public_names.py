"""What ``import hpc_holstein`` offers."""

import subprocess
import sys

import pytest

import hpc_holstein


@pytest.mark.parametrize("name", hpc_holstein.__all__)
def test_every_public_name_is_there(name):
    assert getattr(hpc_holstein, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hpc_holstein.nothing


def test_importing_the_package_alone_loads_nothing_heavy():
    program = "import sys, hpc_holstein; assert not {'torch', 'mpi4py', 'h5py', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
