# Write .env beside docker-compose.yml: passwords drawn here, never overwritten; and ./runs, which the containers may write.
set -eu
uid=$(id -u) gid=$(id -g)
[ -d runs ] || mkdir -m 755 runs
if [ "$uid" = 0 ]; then # no container runs as root, so root's ./runs goes to the image's user
  uid=1000 gid=1000
  [ ! -O runs ] || chown "$uid:$gid" runs
fi
if [ -e .env ]; then
  echo ".env is there already and stays as it is."
  exit 0
fi
umask 077
password() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
new=.env.$$
trap 'rm -f "$new"' EXIT
cat > "$new" <<SETTINGS
POSTGRES_PASSWORD=$(password)
REDIS_PASSWORD=$(password)
LAB_UID=$uid
LAB_GID=$gid
SETTINGS
mv "$new" .env
echo "Wrote .env. Next: docker compose up --wait"
