# SPDX-License-Identifier: Apache-2.0
"""What ``discoverctl doctor`` looks for: one file for each thing that administrators get wrong."""
