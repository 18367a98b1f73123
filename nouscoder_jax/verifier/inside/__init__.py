"""What is sent into a sandbox, for a bare `python` there: standard library only, nothing imported from elsewhere.

In: frames of `protocol`. Out: frames of `protocol`. The host imports `protocol` alone; `bundle` sends the rest.
"""
