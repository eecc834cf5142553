"""Memory drivers of a guest, and the host that they get memory from.

host has the Host, hypervisor its guests' Domains. xen, virtio_balloon, virtio_mem, hyperv, cmm and dimm have a driver each;
consumers has programs that react to hot-plug. driver.run moves the virtual clock. series runs one driver through a list of
target sizes, as `fastonline balloon` does::

    >>> import fastonline as fo
    >>> from fastonline.drivers.driver import run
    >>> from fastonline.drivers.hypervisor import Domain, Host
    >>> from fastonline.drivers.xen import XenBalloon
    >>> host = Host("4G")
    >>> guest = fo.Memory("x86_64", boot="1G")
    >>> balloon = XenBalloon(guest, Domain(host, boot="1G"))
    >>> balloon.set_target("768M")
    >>> run([balloon], until=60.0)
    >>> balloon.current_pages >> 8, host.free_frames >> 8        # MiB
    (768, 3328)
"""
