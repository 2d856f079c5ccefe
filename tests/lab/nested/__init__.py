# SPDX-License-Identifier: Apache-2.0
"""The lab: hosts with kvm_amd inside QEMU's emulator, and godwit inside them."""
