# SPDX-License-Identifier: Apache-2.0
"""The version of discoverd, by itself so that whoever says it imports nothing else; a test holds meson.build to it."""

VERSION = "0.1.0"
