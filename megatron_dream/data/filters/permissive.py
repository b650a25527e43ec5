"""Named sets of licences by SPDX identifier."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# Blue Oak Council's list of permissive licences, version 15 (https://blueoakcouncil.org/list; the data,
# package @blueoak/list, is CC0-1.0), ratings model, gold, silver and bronze. Its last rating, lead, is
# left out, and so are public domain texts that it does not rate. The Stack v2 goes by the same list
# and ScanCode's categories (StarCoder 2, arXiv 2402.19173).
_PERMISSIVE = """
    0BSD ADSL AFL-1.1 AFL-1.2 AFL-2.0 AFL-2.1 AFL-3.0 AMDPLPA AML AMPAS ANTLR-PD
    ANTLR-PD-fallback Apache-1.0 Apache-1.1 Apache-2.0 APAFML Artistic-2.0 Bahyph Barr
    bcrypt-Solar-Designer BlueOak-1.0.0 BSD-1-Clause BSD-2-Clause BSD-2-Clause-FreeBSD
    BSD-2-Clause-NetBSD BSD-2-Clause-Patent BSD-2-Clause-Views BSD-3-Clause
    BSD-3-Clause-Attribution BSD-3-Clause-Clear BSD-3-Clause-HP BSD-3-Clause-LBNL
    BSD-3-Clause-Modification BSD-3-Clause-No-Nuclear-License-2014
    BSD-3-Clause-No-Nuclear-Warranty BSD-3-Clause-Open-MPI BSD-3-Clause-Sun BSD-4-Clause
    BSD-4-Clause-Shortened BSD-4-Clause-UC BSD-Source-Code BSL-1.0 bzip2-1.0.5 bzip2-1.0.6
    CC0-1.0 CFITSIO Clips CNRI-Jython CNRI-Python CNRI-Python-GPL-Compatible Cube curl DSDP
    ECL-1.0 ECL-2.0 eGenix Entessa FTL fwlw hdparm HPND-Fenneberg-Livingston
    HPND-sell-regexpr HTMLTIDY IBM-pibs ICU ImageMagick Info-ZIP Intel Intel-ACPI ISC
    JasPer-2.0 Libpng libpng-2.0 libtiff Linux-OpenIB LPPL-1.3c LZMA-SDK-9.22 MIT MIT-0
    MIT-advertising MIT-CMU MIT-enna MIT-feh MIT-Modern-Variant MIT-open-group MIT-testregex
    MIT-Wu MITNFA MS-PL MTLL MulanPSL-1.0 MulanPSL-2.0 Multics Mup Naumen NCSA Net-SNMP
    NetCDF NICTA-1.0 NIST-Software NTP OGL-Canada-2.0 OLDAP-2.0 OLDAP-2.0.1 OLDAP-2.1
    OLDAP-2.2 OLDAP-2.2.1 OLDAP-2.2.2 OLDAP-2.3 OLDAP-2.4 OLDAP-2.5 OLDAP-2.6 OLDAP-2.7
    OLDAP-2.8 OML OpenSSL PHP-3.0 PHP-3.01 Plexus PostgreSQL PSF-2.0 Python-2.0 Ruby Saxpath
    SGI-B-2.0 SHL-0.5 SMLNJ Spencer-99 SunPro SWL Symlinks TCL TCP-wrappers UCAR
    Unicode-DFS-2015 Unicode-DFS-2016 UnixCrypt Unlicense UPL-1.0 VSL-1.0 W3C X11 Xerox Xfig
    XFree86-1.1 xlock Xnet xpp Zlib zlib-acknowledgement ZPL-2.0 ZPL-2.1
"""

LICENCE_SETS: Mapping[str, frozenset[str]] = MappingProxyType(
    {"permissive": frozenset(name.lower() for name in _PERMISSIVE.split())}
)
