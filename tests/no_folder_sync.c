/* Preloaded: a file system that cannot sync folders, lock or change modes, as CIFS or WSL's. */

#include <errno.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int fsync(int descriptor)
{
    struct stat about;
    if (fstat(descriptor, &about) == 0 && S_ISDIR(about.st_mode)) {
        errno = EINVAL;
        return -1;
    }
    return syscall(SYS_fsync, descriptor);
}

int flock(int descriptor, int operation)
{
    errno = ENOLCK;
    return -1;
}

int fchmod(int descriptor, mode_t mode)
{
    errno = EPERM;
    return -1;
}
