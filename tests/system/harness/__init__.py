# SPDX-License-Identifier: Apache-2.0
"""What the system tests, the demo and the benches drive godwit with."""
