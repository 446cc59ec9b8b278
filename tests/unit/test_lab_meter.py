# SPDX-License-Identifier: Apache-2.0
"""What the lab makes of a kernel's trace: how long the turns of a loop are, without what others took of them."""

from tests.lab.guest_meter import turns

TRACE = """\
# tracer: nop
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
       discoverd-77      [001] .....    10.000000: sys_epoll_wait(epfd: 3, events: 7f, maxevents: 5, timeout: ffffffff)
       discoverd-77      [001] d....    10.000100: sched_switch: prev_comm=discoverd prev_pid=77 prev_prio=120 \
prev_state=S ==> next_comm=swapper/1 next_pid=0 next_prio=120
          <idle>-0       [001] d....    11.000000: sched_switch: prev_comm=swapper/1 prev_pid=0 prev_prio=120 \
prev_state=R ==> next_comm=discoverd next_pid=77 next_prio=120
       discoverd-77      [001] .....    11.000100: sys_epoll_wait -> 0x1
       discoverd-77      [001] d....    11.001000: sched_switch: prev_comm=discoverd prev_pid=77 prev_prio=120 \
prev_state=R+ ==> next_comm=my job-1 next_pid=5 next_prio=120
        my job-1-5       [000] d....    11.031000: sched_switch: prev_comm=my job-1 prev_pid=5 prev_prio=120 \
prev_state=S ==> next_comm=discoverd next_pid=77 next_prio=120
       discoverd-77      [000] .....    11.032100: sys_epoll_wait(epfd: 3, events: 7f, maxevents: 5, timeout: 0)
       discoverd-77      [000] .....    11.032200: sys_epoll_wait -> 0x0
       discoverd-77      [000] d....    11.033000: sched_switch: prev_comm=discoverd prev_pid=77 prev_prio=120 \
prev_state=D ==> next_comm=swapper/0 next_pid=0 next_prio=120
          <idle>-0       [000] d....    11.073000: sched_switch: prev_comm=swapper/0 prev_pid=0 prev_prio=120 \
prev_state=R ==> next_comm=discoverd next_pid=77 next_prio=120
       discoverd-77      [000] .....    11.074200: sys_epoll_wait(epfd: 3, events: 7f, maxevents: 5, timeout: ffffffff)
       discoverd-78      [000] .....    11.075000: sys_epoll_wait -> 0x1
       discoverd-78      [000] .....    19.075000: sys_epoll_wait(epfd: 9, events: 7f, maxevents: 5, timeout: ffffffff)
"""


def test_a_turn_has_what_it_waits_for_and_not_what_others_take() -> None:
    found = [(began, round(length, 6)) for began, length in turns(TRACE.splitlines(), 77)]
    assert found == [(11.0001, 0.002), (11.0322, 0.042)]


def test_a_trace_that_begins_in_a_turn_tells_nothing_of_it() -> None:
    assert not list(turns(TRACE.splitlines()[2:3], 77))
