"""The numeric contract of Lockstep: what every number becomes, in integers, with numpy alone.

Training, the executors, the compiler and the hardware take their arithmetic from here.
"""
