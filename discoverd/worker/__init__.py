# SPDX-License-Identifier: Apache-2.0
"""The process in a controller's unit. Thin: it imports itself, discoverd.kernel, registry and state only."""
