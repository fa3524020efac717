-- Replaces a writer's lease of a row by the row, if the stamp is still the writer's own. Keys: the row and its stamp.
-- Arguments: the lease, the row, its lifetime in milliseconds, and the stamp. Otherwise gives the lease back.
-- Returns 1 if the row was stored, else 0.
local lease, value, ttl, stamp = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if redis.pcall('GETRANGE', KEYS[1], 0, -1) ~= lease then
  return 0
end
if redis.pcall('GETRANGE', KEYS[2], 0, -1) == stamp and not redis.pcall('SET', KEYS[1], value, 'PX', ttl).err then
  return 1
end
redis.call('UNLINK', KEYS[1])
return 0
