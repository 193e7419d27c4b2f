#!lua flags=allow-oom
-- The records of finished jobs lie in the artifact store now, many in one artifact (`ref`). What stays here is where each
-- one is, and how it ended (a letter before `ref`), in one hash for all jobs that a caller made within a minute: a key of
-- its own would cost more than all it says. Sent twice, it finds that done.

for job in string.gmatch(args.jobs, '%S+') do
  local at = key('job', job)
  local held = redis.call('HMGET', at, 'state', 'caller')
  local left = redis.call('PTTL', at)
  if held[1] and not ACTIVE[held[1]] and left > 0 then
    local where = archived(held[2], job)
    redis.call('HSET', where, job, string.sub(held[1], 1, 1) .. args.ref)
    if redis.call('PTTL', where) < left then redis.call('PEXPIRE', where, left) end
    redis.call('DEL', at, key('events', job))
    count('archived')
  end
  redis.call('ZREM', key('finished'), job)
end
return 'done'
