# SPDX-License-Identifier: Apache-2.0
"""Machines made of files: what `/proc`, `/sys` and `/etc` say on four kinds of them.

Written from documents and public listings, not copied from devices.
"""

import subprocess

FOLDER = "/data/packs"  # on the drive of each machine

_MEMINFO = """\
MemTotal:       {total} kB
MemFree:         1200000 kB
MemAvailable:   {available} kB
"""
_CPUS = {
    "arm": "processor\t: 0\nFeatures\t: fp asimd evtstrm aes fphp asimdhp cpuid asimddp\n",
    "x86": "processor\t: 0\nmodel name\t: A Fast CPU\nflags\t\t: fpu avx2 fma f16c avx512f\n",
}
_NVPMODEL_AGX = """\
< PARAM TYPE=FILE NAME=CPU_ONLINE >
< POWER_MODEL ID=0 NAME=MAXN >
< POWER_MODEL ID=1 NAME=MODE_15W >
< POWER_MODEL ID=2 NAME=MODE_30W >
< PM_CONFIG DEFAULT=2 >
"""
_NVPMODEL_NANO = """\
< POWER_MODEL ID=0 NAME=15W >
< POWER_MODEL ID=1 NAME=25W >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
"""
_NVCC = """\
#!/bin/sh
echo 'nvcc: NVIDIA (R) Cuda compiler driver'
echo 'Cuda compilation tools, release {short}, V{version}'
"""
_SWAPS = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"


def _drive(model, speed, width, most=None, slot=None):
    """An NVMe drive nvme0 with FOLDER on its first partition; 259:1 is its number."""
    link = "sys/class/nvme/nvme0/device"
    files = {
        "sys/class/nvme/nvme0/model": f"{model}   \n",
        f"{link}/current_link_speed": f"{speed} GT/s PCIe\n",
        f"{link}/current_link_width": f"{width}\n",
        f"{link}/max_link_speed": f"{most or speed} GT/s PCIe\n",
        f"{link}/max_link_width": "4\n",
        "sys/dev/block/259:1/uevent": "MAJOR=259\nMINOR=1\nDEVNAME=nvme0n1p1\nDEVTYPE=partition\n",
        "proc/self/mountinfo": "24 1 179:1 / / rw - ext4 /dev/mmcblk0p1 rw\n"
        "31 24 259:1 / /data rw,noatime shared:1 - ext4 /dev/nvme0n1p1 rw\n",
    }
    if slot:
        files["sys/class/nvme/nvme0/max_link_speed"] = f"{slot} GT/s PCIe\n"
        files["sys/class/nvme/nvme0/max_link_width"] = "4\n"
    return files


def _rails(labels):
    """An INA3221 at 1-0040: {label: (millivolts, milliamperes)}."""
    where = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"
    files = {f"{where}/in7_label": "sum of shunt voltages\n", f"{where}/in7_input": "0\n"}
    for number, (label, (volts, amperes)) in enumerate(labels.items(), 1):
        files[f"{where}/in{number}_label"] = f"{label}\n"
        files[f"{where}/in{number}_input"] = f"{volts}\n"
        files[f"{where}/curr{number}_input"] = f"{amperes}\n"
    return files


def _jetson(release, model, kernel):
    return {
        "etc/nv_tegra_release": f"# {release}, GCID: 1, BOARD: generic, EABI: aarch64\n",
        "proc/device-tree/model": f"{model}\0",
        "proc/device-tree/compatible": "nvidia,p3701-0000\0nvidia,tegra234\0",
        "proc/sys/kernel/osrelease": f"{kernel}\n",
        "proc/cpuinfo": _CPUS["arm"],
        "dev/nvmap": "",
        "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
        "sys/class/thermal/cooling_device0/cur_state": "3\n",
        "sys/class/thermal/cooling_device1/type": "cpu-throttle-alert\n",
        "sys/class/thermal/cooling_device1/cur_state": "0\n",
        "sys/class/hwmon/hwmon3/name": "soctherm_oc\n",
        "sys/class/hwmon/hwmon3/oc1_event_cnt": "0\n",
    }


def nvcc_script(version):
    """A compiler that only tells its version."""
    return _NVCC.format(short=version.rpartition(".")[0], version=version)


def orin_jetpack_6_2():
    """AGX Orin 64 GB, as it comes: 30 W, zram, schedutil; three rails."""
    return {
        **_jetson(
            "R36 (release), REVISION: 4.4",
            "NVIDIA Jetson AGX Orin Developer Kit",
            "5.15.148-tegra",
        ),
        **_drive("Samsung SSD 990 PRO 2TB", "16.0", 4),
        **_rails(
            {"VDD_GPU_SOC": (19000, 500), "VDD_CPU_CV": (19000, 300), "VIN_SYS_5V0": (5000, 1000)}
        ),
        "sys/bus/i2c/drivers/ina3221/1-0041/hwmon/hwmon2/in1_label": "NC\n",
        "sys/bus/i2c/drivers/ina3221/1-0041/hwmon/hwmon2/in1_input": "0\n",
        "sys/bus/i2c/drivers/ina3221/1-0041/hwmon/hwmon2/curr1_input": "0\n",
        "sys/bus/i2c/drivers/ina3221/1-0041/hwmon/hwmon2/in2_label": "VDDQ_VDD2_1V8AO\n",
        "sys/bus/i2c/drivers/ina3221/1-0041/hwmon/hwmon2/in2_input": "5000\n",
        "sys/bus/i2c/drivers/ina3221/1-0041/hwmon/hwmon2/curr2_input": "200\n",
        "proc/meminfo": _MEMINFO.format(total=64345896, available=58000000)
        + "NvMapMemFree:           0 kB\nNvMapMemUsed:      900000 kB\n",
        "proc/swaps": _SWAPS + "/dev/zram0  partition\t2650000\t\t0\t\t5\n",
        "proc/self/cgroup": "0::/user.slice/session-1.scope\n",
        "proc/self/status": "Name:\tadapmoe\nSeccomp:\t0\n",
        "etc/nvpmodel.conf": _NVPMODEL_AGX,
        "var/lib/nvpmodel/status": "pmode:0002 fmode:quiet\n",
        "usr/local/cuda/version.json": '{"cuda": {"name": "CUDA SDK", "version": "12.6.11"}}',
        "usr/local/cuda/bin/nvcc": nvcc_script("12.6.68"),
        "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "schedutil\n",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq": "729600\n",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "2201600\n",
        "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
        "sys/class/devfreq/17000000.gpu/max_freq": "1300500000\n",
    }


def orin_jetpack_7_2():
    """Orin Nano Super, set up well: MAXN_SUPER, clocks held, no swap, a Gen 4 drive in its slot."""
    return {
        **_jetson(
            "R39 (release), REVISION: 2.1",
            "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
            "6.8.12-1021-tegra",
        ),
        **_drive("WD_BLACK SN850X 1000GB", "8.0", 4, most="16.0", slot="8.0"),
        **_rails({"VDD_IN": (5000, 2000), "VDD_CPU_GPU_CV": (5000, 800), "VDD_SOC": (5000, 400)}),
        "proc/meminfo": _MEMINFO.format(total=7802000, available=6800000)
        + "NvMapMemUsed:      100000 kB\n",
        "proc/swaps": _SWAPS,
        "proc/self/cgroup": "0::/system.slice/ssh.service\n",
        "proc/self/status": "Seccomp:\t0\n",
        "proc/sys/kernel/io_uring_disabled": "0\n",
        "etc/nvpmodel.conf": _NVPMODEL_NANO,
        "var/lib/nvpmodel/status": "pmode:0002\n",
        "usr/local/cuda-13.2/bin/nvcc": nvcc_script("13.2.78"),
        "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "schedutil\n",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq": "1728000\n",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "1728000\n",
        "sys/class/devfreq/17000000.gpu/min_freq": "1020000000\n",
        "sys/class/devfreq/17000000.gpu/max_freq": "1020000000\n",
    }


def workstation():
    """x86 with RAPL, cgroup v1, a drive whose link has come up narrow."""
    package = "sys/class/powercap/intel-rapl:0"
    return {
        **_drive("A Drive", "16.0", 2),
        "proc/sys/kernel/osrelease": "6.8.0-generic\n",
        "proc/cpuinfo": _CPUS["x86"],
        "proc/meminfo": _MEMINFO.format(total=131072000, available=120000000),
        "proc/swaps": _SWAPS + "/swapfile file 8388604 1024 -2\n",
        "proc/self/cgroup": "4:memory:/user/me\n1:name=systemd:/\n0::/\n",
        "proc/self/status": "Seccomp:\t0\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/user/memory.limit_in_bytes": "68719476736\n",
        "sys/fs/cgroup/memory/user/me/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "powersave\n",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq": "800000\n",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "5000000\n",
        f"{package}/name": "package-0\n",
        f"{package}/energy_uj": "1000000\n",
        f"{package}/max_energy_range_uj": "5000000\n",
        f"{package}/intel-rapl:0:0/name": "core\n",
        "sys/class/powercap/intel-rapl:0:0/name": "core\n",
        "sys/class/powercap/intel-rapl:0:0/energy_uj": "400000\n",
        "sys/class/powercap/intel-rapl:0:0/max_energy_range_uj": "5000000\n",
        "sys/class/powercap/intel-rapl:0:1/name": "dram\n",
        "sys/class/powercap/intel-rapl:0:1/energy_uj": "2000000\n",
        "sys/class/powercap/intel-rapl:0:1/max_energy_range_uj": "5000000\n",
        "sys/class/powercap/intel-rapl-mmio:0/name": "package-0\n",
        "sys/class/powercap/intel-rapl-mmio:0/energy_uj": "1000000\n",
        "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "7\n",
        "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": "9\n",
    }


def container():
    """cgroup v2 with a limit, a seccomp filter, an overlay file system; little is to be seen."""
    return {
        "proc/sys/kernel/osrelease": "6.8.0-generic\n",
        "proc/cpuinfo": _CPUS["x86"],
        "proc/meminfo": _MEMINFO.format(total=16384000, available=3000000),
        "proc/swaps": _SWAPS,
        "proc/self/cgroup": "0::/\n",
        "proc/self/status": "Seccomp:\t2\n",
        "proc/self/mountinfo": "600 500 0:50 / / rw - overlay overlay rw\n",
        "sys/fs/cgroup/memory.max": "4294967296\n",
    }


MACHINES = {
    "orin_jetpack_6_2": orin_jetpack_6_2,
    "orin_jetpack_7_2": orin_jetpack_7_2,
    "workstation": workstation,
    "container": container,
}


def build(root, files):
    """Write {path: text} below `root`, and return it."""
    for path, text in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        if text.startswith("#!"):
            file.chmod(0o755)
    return root


def runner(root):
    """What `Machine.run` does, for programs below `root`."""

    def run(words):
        program = root / words[0].lstrip("/")
        try:
            return subprocess.check_output([program, *words[1:]], text=True)
        except (OSError, subprocess.CalledProcessError):
            return None

    return run
