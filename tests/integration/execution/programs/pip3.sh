# says: v 7
cat >wheel.py <<'EOF'
import zipfile
with zipfile.ZipFile("p-1-py3-none-any.whl", "w") as made:
    about = "p-1.dist-info/"
    made.writestr("p.py", "print(7)")
    made.writestr(about + "METADATA", "Metadata-Version: 2.1\nName: p\nVersion: 1\n")
    kind = "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    made.writestr(about + "WHEEL", kind)
    made.writestr(about + "RECORD", "")
EOF
python3 wheel.py; python3 -m venv --without-pip v; v/bin/python -c 'import sys; print(sys.prefix[-1])'
python3 -m pip install -q --no-index --disable-pip-version-check --target t ./p-1-py3-none-any.whl
PYTHONPATH=t v/bin/python -m p
