# says: deb
mkdir -p p/DEBIAN p/opt; echo deb >p/opt/f
printf '%s\n' 'Package: p' 'Version: 1' 'Architecture: all' 'Maintainer: m' 'Description: d' \
    >p/DEBIAN/control
dpkg-deb --root-owner-group -b p p.deb >/dev/null; dpkg -x p.deb out; cat out/opt/f
