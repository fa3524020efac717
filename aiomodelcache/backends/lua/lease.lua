-- Puts the lease ARGV[2] in place of a value that begins with ARGV[1], for ARGV[3] milliseconds
-- (0: for ever).
-- Returns what the key holds afterwards.
-- A prefix shorter than state and token (17 bytes) stands for a whole value: a longer one is another.
local size = math.max(#ARGV[1], 17)
if redis.call('GETRANGE', KEYS[1], 0, size - 1) == ARGV[1] then
  if ARGV[3] == '0' then
    redis.call('SET', KEYS[1], ARGV[2])
  else
    redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
  end
  return ARGV[2]
end
return redis.call('GET', KEYS[1])
